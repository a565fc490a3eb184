#!/usr/bin/env bash
# Which layers of a BERT start the decoder? Short runs of equal updates on examples/debian, AR and NAR in
# every update, that differ in the layers of START that start the decoder.
# usage: research/starts.sh START OUT      (START: a BERT's folder; research/LOG.md has what came out)
# UPDATES (400), MAX_TOKENS (640), DECODER_LAYERS (3), SEEDS (1): the size of a run
# VARIANTS: "name:layers" each; layers of START with commas between them, or nothing: evenly spread; "noise": no start
set -euo pipefail
if (($# != 2)); then sed -n 2,7p "$0" >&2; exit 2; fi
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cd "$root"
source scripts/environment.sh eval rouge_score
start=$1 out=$2
depth=${DECODER_LAYERS:-3}
layers=$(python -m bang starts "$start" 2>/dev/null | grep -oP '(?<=--decoder-layers )\d+')
first=$(seq -s, 0 $((depth - 1))) last=$(seq -s, $((layers - depth)) $((layers - 1)))
ends=$({ echo 0; seq $((layers - depth + 1)) $((layers - 1)); } | paste -sd,)
variants=${VARIANTS:-"spread: first:$first last:$last ends:$ends noise:"}
precision=$(python -c 'import torch; print("--fp16" if torch.cuda.is_available() else "")')
[ -n "$precision" ] || precision="--cpu $(python -m bang.recipes.precision)"
mkdir -p "$out"
if [ ! -d "$out/data" ]; then
    python -m bang tokenize --out-dir "$out/tokenized" examples/debian/{train,valid,test}.{src,tgt}
    logged "$out/preprocess.log" python -m bang binarize "$out/tokenized" "$out/data"
fi
read -ra sizes < <(python -m bang starts "$start" 2>/dev/null)
for seed in ${SEEDS:-1}; do
    for variant in $variants; do
        IFS=: read -r name chosen <<<"$variant"
        log=$out/$name.$seed.log
        [ ! -s "$log.done" ] || continue
        options=("${sizes[@]::${#sizes[@]}-2}" --decoder-layers "$depth") # without its --load-from-pretrained-model START
        if [ "$name" != noise ]; then
            python -m bang starts "$start" --save "$out/start.pt" --decoder-layers "$depth" \
                ${chosen:+--pretrained-decoder-layers "$chosen"} 2>/dev/null
            options+=(--load-from-pretrained-model "$out/start.pt")
        fi
        rm -f "$log"
        # shellcheck disable=SC2086
        logged "$log" fairseq-train "$out/data" --user-dir bang --task translation_bang "${options[@]}" $precision --seed "$seed" \
            --dropout 0.1 --max-source-positions 512 --max-target-positions 512 --truncate-source --joint-modes \
            --criterion ngram_language_loss_NAR_mixed --nar-ratio 0.5 --label-smoothing 0.1 --optimizer adam \
            --adam-betas '(0.9, 0.98)' --clip-norm 1.0 --lr 0.0005 --lr-scheduler inverse_sqrt --warmup-init-lr 1e-07 \
            --warmup-updates 40 --max-tokens "${MAX_TOKENS:-640}" --max-tokens-valid 4096 --num-workers 0 \
            --max-update "${UPDATES:-400}" --no-save --save-dir "$out/none" --log-format json --log-interval 25
        grep '| valid |' "$log" | tail -1 >"$log.done"
    done
done
python - "$out" <<'END'
import json, re, sys
from pathlib import Path

print(f"{'start':10} {'seed':>4}  {'AR loss':>7} {'NAR loss':>8}   (validation, base 2, after the last update)")
for path in sorted(Path(sys.argv[1]).glob("*.log.done")):
    name, seed = path.name.split(".")[:2]
    record = json.loads(re.search(r"\{.*\}", path.read_text())[0])
    print(f"{name:10} {seed:>4}  {record['valid_ar_loss']:>7} {record['valid_nar_loss']:>8}")
END
