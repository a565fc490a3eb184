#!/usr/bin/env bash
# Opens the hostile and damaged inputs of tests/attack, and prints a table of what held: bash scripts/attack.sh [--only WORDS]
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
source "$root/scripts/environment.sh" test onnxruntime onnxscript
cd "$root"
export OMP_NUM_THREADS=1
out=$(mktemp -d) data=tests/golden/data
trap 'rm -rf "$out"' EXIT
bang=(python -m bang) vocabulary=$data/vocab_small.txt
logged "$out/log" "${bang[@]}" export tests/golden/mixed/checkpoint.pt "$out/exported" --vocab $vocabulary
logged "$out/log" fairseq-preprocess --user-dir bang --task translation_bang --source-lang src --target-lang tgt --testpref $data/tokenized_test \
    --destdir "$out/data" --srcdict $vocabulary --tgtdict $vocabulary
PYTHONPATH=$root:$root/tests python -m attack.runner "$out/exported" "$out/data" "$@"
