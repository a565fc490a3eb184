#!/usr/bin/env bash
# Teaches a model further kinds of text: models/debian-synopsis learns docstrings and manual pages. See --help.
set -euo pipefail

usage() {
    cat <<'END'
usage: research/more_kinds.sh MODEL PAIRS TEXT OUT

  MODEL  checkpoint to go on from, in all modes: models/debian-synopsis/checkpoint.pt
  PAIRS  folder with {train,valid,test}.{src,tgt}, raw text, which the model knows
  TEXT   folder that research/collect_text.py wrote: docstrings/ and manuals/ with the same files
  OUT    working folder; OUT/shipped gets checkpoint.pt (float16 weights, no optimizer), link.bin and casing.tsv

UPDATES updates on the references of all three kinds, every manual page MANUALS times, then OWN updates in which
the model is its own teacher (--own-texts); the learning rate falls to zero in each. What is shipped is the mean of the
weights before and after OWN. What was stopped goes on where it was when the command is given again.

environment (defaults)
  UPDATES (1000)  OWN (600)    updates
  LR (0.0003)  OWN_LR (0.0002) their highest learning rates
  MANUALS (2)                  times that a pair of a manual page stands in the train part
END
}

case ${1:-} in -h | --help) usage; exit ;; esac
if (($# != 4)); then usage >&2; exit 2; fi
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
source "$root/scripts/environment.sh" recipes rouge_score
model=$1 pairs=$2 text=$3 out=$4 updates=${UPDATES:-1000} own=${OWN:-600} manuals=${MANUALS:-2}
mkdir -p "$out/raw"

if [[ ! -e $out/prepared ]]; then
    for side in src tgt; do
        {
            cat "$pairs/train.$side" "$text/docstrings/train.$side"
            for ((i = 0; i < manuals; i++)); do cat "$text/manuals/train.$side"; done
        } > "$out/raw/train.$side"
        # 200 of each kind are enough for a curve
        head -qn 200 "$pairs/valid.$side" "$text"/{docstrings,manuals}/valid.$side > "$out/raw/valid.$side"
    done
    rm -rf "$out/tokenized" "$out/data"
    python -m bang tokenize --out-dir "$out/tokenized" "$out"/raw/{train,valid}.{src,tgt}
    python -m bang binarize "$out/tokenized" "$out/data"
    touch "$out/prepared"
fi

options=(
    --attention-dropout 0 --activation-dropout 0
    --adam-betas '(0.9, 0.98)' --clip-norm 1.0 --length-bucket 8 --num-workers 1
    --max-epoch 0 --no-epoch-checkpoints --save-interval-updates 100 --keep-interval-updates 1
    --lr-scheduler polynomial_decay --end-learning-rate 0 --log-format json --log-interval 10
)

# train FOLDER START UPDATES OPTION...: nothing where FOLDER's last checkpoint has that many updates
train() {
    python -c 'import sys, torch
sys.exit(torch.load(sys.argv[1], mmap=True)["optimizer_history"][-1]["num_updates"] < int(sys.argv[2]))' \
        "$1/checkpoint_last.pt" "$3" 2>/dev/null && return
    words=$(python -m bang starts "$2")
    eval "sizes=($words)" # they are quoted for a shell
    logged "$1.log" python -m bang finetune --mode all "$out/data" "$1" "${sizes[@]}" "${options[@]}" --max-update "$3" --total-num-update "$3" \
        --warmup-updates $(($3 / 20 + 1)) "${@:4}"
}
train "$out/references" "$model" "$updates" --max-tokens 3072 --lr "${LR:-0.0003}" --seed 1 \
    --nar-ratio 0.3 --semi-nar-ratio 0.28
train "$out/own" "$out/references/checkpoint_last.pt" "$own" --max-tokens 1536 --lr "${OWN_LR:-0.0002}" --seed 2 \
    --own-texts 4 --nar-ratio 0.27 --semi-nar-ratio 0.33

shipped=$out/shipped
rm -rf "$shipped" "$out/packed"
python -m bang pack "$out/own/checkpoint_last.pt" "$out/packed" --dtype float16 --average-with "$out/references/checkpoint_last.pt"
mkdir -p "$shipped"
python -m bang unpack "$out/packed" "$shipped/checkpoint.pt"
python -m bang link "$out/raw/train.tgt" --out "$shipped/link.bin" --tune "$out"/raw/valid.{src,tgt} --model "$shipped/checkpoint.pt"
python -m bang casing "$out/raw/train.tgt" --sources "$out/raw/train.src" --out "$shipped/casing.tsv"

# scores by kind; for scale, a text's first eight words
for kind in pairs docstrings manuals; do
    data=$text/$kind
    [[ $kind == pairs ]] && data=$pairs
    bash "$root/research/score_model.sh" "$shipped/checkpoint.pt" "$data" "$out/scores-$kind" > "$out/scores-$kind.txt"
    cut -d' ' -f1-8 "$data/test.src" > "$out/first-words"
    python -m bang evaluate "$out/first-words" --reference "$data/test.tgt" --metrics rouge >> "$out/scores-$kind.txt"
done
