#!/usr/bin/env bash
# Quality against time for every way of decoding of one model: JSON, a table and a picture.
# usage: scripts/frontier.sh CHECKPOINT DATA [OUT] [options of benchmarks/frontier.py]
# CHECKPOINT: checkpoint or folder; DATA: folder with test.src and test.tgt, raw texts; OUT: default frontier
# e.g.   scripts/frontier.sh models/debian-synopsis/checkpoint.pt examples/debian frontier --sentences 100 --engine onnx-int8
set -euo pipefail
if (($# < 2)); then sed -n 2,5p "$0" >&2; exit 2; fi
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
source "$root/scripts/environment.sh" recipes,export rouge_score matplotlib onnxruntime
model=$1 data=$2 out=frontier
shift 2
if (($#)) && [[ $1 != -* ]]; then out=$1; shift; fi
python "$root/benchmarks/frontier.py" "$model" "$data" --out "$out" "$@"
