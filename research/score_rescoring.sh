#!/usr/bin/env bash
# What --rescore gains and costs: NAR and semi-NAR on a test part, each with 0, 2 and 4 candidates that AR chooses from.
# usage: research/score_rescoring.sh CHECKPOINT DATA OUT     (DATA: folder with test.src and test.tgt, raw text)
# OUT gets the texts; the table goes to stdout, then fairseq-generate's CPU seconds, start-up included.
set -euo pipefail
if (($# != 3)); then sed -n 2,4p "$0" >&2; exit 2; fi
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
source "$root/scripts/environment.sh" eval rouge_score
checkpoint=$1 data=$2 out=$3
TIMEFORMAT=%U
mkdir -p "$out"
python -m bang tokenize --out-dir "$out/tokenized" "$data/test.src" "$data/test.tgt"
rm -rf "$out/data"
logged "$out/preprocess.log" python -m bang binarize "$out/tokenized" "$out/data"
texts=()
for decoding in nar semi-nar; do
    for candidates in 0 2 4; do
        name=$out/$decoding-$candidates
        { time fairseq-generate "$out/data" --user-dir "$root/bang" --task translation_bang --path "$checkpoint" --batch-size 36 \
            --truncate-source --max-len-b 40 --beam 1 --decoding "$decoding" --rescore "$candidates" > "$name.log" 2> "$name.err"; } 2> "$name.seconds" ||
            { echo "score_rescoring.sh: error: $name: $(error_line "$name.err")" >&2; exit 1; }
        python -m bang collect "$name.log" "$name.hypo" --source "$out/tokenized/test.src"
        python "$root/post_processed_nar.py" --detokenize "$name.hypo" "$name.txt"
        texts+=("$name.txt")
    done
done
python -m bang evaluate "${texts[@]}" --reference "$data/test.tgt" --metrics rouge faults
tail "$out"/*.seconds
