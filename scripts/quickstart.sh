#!/usr/bin/env bash
# Trains one model on 6,000 real pairs (examples/debian), lets it write AR and NAR, and compares the two.
# A GPU is used when there is one; on 2 CPU cores it takes up to 10 minutes after the downloads.
# usage: bash scripts/quickstart.sh [FOLDER]     (default quickstart-run; a second run continues what is there)
# QUICKSTART_UPDATES: how long to train (default 1200 updates, or 6.5 minutes, whichever comes first)
# QUICKSTART_DATA: folder with {train,valid,test}.{src,tgt} (default examples/debian)
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cd "$root"
source scripts/environment.sh eval rouge_score
run=${1:-quickstart-run}
data=${QUICKSTART_DATA:-examples/debian}
mkdir -p "$run"
say() { printf '\n== %s\n' "$*"; }
gpu=$(python -c 'import torch; print("--fp16" if torch.cuda.is_available() else "")')
precision=$gpu # on a CPU bf16 pays where there are instructions for it
[ -n "$gpu" ] || ! grep -qs avx512_bf16 /proc/cpuinfo || precision=--bf16

say "word pieces"
python -m bang tokenize --out-dir "$run/tokenized" "$data"/{train,valid,test}.{src,tgt}

say "binarizing"
rm -rf "$run/data"
fairseq-preprocess --user-dir bang --task translation_bang --source-lang src --target-lang tgt \
    --trainpref "$run/tokenized/train" --validpref "$run/tokenized/valid" --testpref "$run/tokenized/test" \
    --destdir "$run/data" --srcdict vocab.txt --tgtdict vocab.txt --workers 2 2>"$run/preprocess.log"

say "fine-tuning: half of the updates AR, half NAR ${gpu:+(on the GPU)}"
fairseq-train "$run/data" --user-dir bang --task translation_bang --arch bang_ar_nar_mixed --share-all-embeddings \
    --encoder-layers 3 --decoder-layers 3 --encoder-attention-heads 4 --decoder-attention-heads 4 \
    --encoder-embed-dim 256 --decoder-embed-dim 256 --encoder-ffn-embed-dim 1024 --decoder-ffn-embed-dim 1024 \
    --activation-fn gelu --dropout 0.1 --max-source-positions 512 --max-target-positions 512 --truncate-source \
    --criterion ngram_language_loss_NAR_mixed --nar-ratio 0.5 --label-smoothing 0.1 \
    --optimizer adam --adam-betas '(0.9, 0.98)' --clip-norm 1.0 --lr 0.001 --lr-scheduler inverse_sqrt \
    --warmup-init-lr 1e-07 --warmup-updates 200 --max-tokens 2048 --num-workers 1 \
    --max-update "${QUICKSTART_UPDATES:-1200}" --stop-time-hours 0.108 --save-dir "$run/checkpoints" \
    --no-epoch-checkpoints --log-format simple --log-interval 25 --seed 1 $precision 2>&1 | tee "$run/train.log" |
    grep --line-buffered -E 'train_inner|valid on|Error|done training'

# generate MODE TASK BATCH: decodes the test part, its hypotheses into $run/MODE.BATCH.txt
generate() {
    fairseq-generate "$run/data" --user-dir bang --path "$run/checkpoints/checkpoint_best.pt" --task "$2" --gen-subset test \
        --batch-size "$3" --truncate-source --max-source-positions 512 --max-target-positions 512 "${@:4}" $gpu \
        >"$run/$1.$3.log" 2>&1
    python -m bang collect "$run/$1.$3.log" "$run/$1.$3.hypo" --source "$run/tokenized/test.src"
    python post_processed_nar.py "$run/$1.$3.hypo" "$run/$1.$3.txt"
}
for batch in 1 36; do
    say "generating the test part, batch size $batch"
    generate ar translation_bang $batch --beam 4 --lenpen 1.2 --max-len-b 40
    generate nar translation_bang_nar $batch --beam 1 --max-len-b 40
done

say "results"
python scripts/quickstart_report.py "$run" "$data/test.src" "$data/test.tgt"
