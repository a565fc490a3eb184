#!/usr/bin/env bash
# Fine-tunes BANG on pairs. See --help.
set -euo pipefail

usage() {
    cat <<'END'
usage: scripts/finetune.sh --mode {ar,nar,semi-nar,mixed,n-stream,all} DATA SAVE_DIR [OPTION of fairseq-train ...]

Fine-tunes BANG with the published recipe, from --load-from-pretrained-model FILE where it is given.

  --mode ar        token by token; 10 epochs
         nar       all tokens at once; 50 epochs, a checkpoint every 5
         semi-nar  blocks of 4 tokens (--block-size); epochs as nar
         mixed     a third of the updates each of ar, nar and semi-nar (--nar-ratio, --semi-nar-ratio);
                   epochs as nar. The checkpoint serves every --decoding
         n-stream  9 streams (--ngram), as in pretraining, but each weighs 0.7 of the one before
                   (--stream-decay); epochs as ar. The checkpoint serves --decoding ar, semi-nar with
                   blocks of up to 9, drafts of --decoding speculative and the dial --commit-threshold
         all       ar, semi-nar with blocks of 6 that hang on any token, and nar, all in every update
                   (--joint-modes); epochs as nar. The checkpoint serves every --decoding: drafts of
                   --decoding speculative and the dial --commit-threshold too
  DATA             folder that fairseq-preprocess wrote
  SAVE_DIR         folder for the checkpoints
  OPTION           any option of fairseq-train; it takes the place of the recipe's, as --max-epoch 5

ar and nar are the published ones; the other modes are ours. --warmup-updates is the published
1000, or a tenth of the updates where that is less.

END
    launch_help
}

source "$(dirname "${BASH_SOURCE[0]}")/launch.sh"
case ${1:-} in -h | --help) usage; exit ;; esac
if (($# < 4)) || [[ $1 != --mode ]]; then usage >&2; exit 2; fi
mode=$2 data=$3 save_dir=$4
shift 4

few_epochs=(--max-epoch 10 --save-interval 1 --keep-last-epochs 10)
many_epochs=(--max-epoch 50 --save-interval 5 --keep-last-epochs 10)
case $mode in
    ar) mode_options=(--nar-ratio 0 --ngram 1 --disable-ngram-loss "${few_epochs[@]}") ;;
    nar) mode_options=(--nar-ratio 1 --ngram 1 --disable-ngram-loss "${many_epochs[@]}") ;;
    semi-nar) mode_options=(--semi-nar-ratio 1 --ngram 1 "${many_epochs[@]}") ;;
    mixed) mode_options=(--nar-ratio 0.333 --semi-nar-ratio 0.333 --ngram 1 "${many_epochs[@]}") ;;
    all)
        mode_options=(--nar-ratio 0.4 --semi-nar-ratio 0.2 --block-size 6 --random-block-offset --joint-modes --ngram 1
            "${many_epochs[@]}") ;;
    n-stream) mode_options=(--nar-ratio 0 --ngram 9 --stream-decay 0.7 "${few_epochs[@]}") ;;
    *) echo "finetune.sh: error: --mode $mode: choose ar, nar, semi-nar, mixed, n-stream or all" >&2; exit 2 ;;
esac
schedule=(--lr-scheduler inverse_sqrt --warmup-init-lr 1e-07 --min-lr 1e-09)
if [[ " $* " == *" --lr-scheduler"[=\ ]* ]]; then schedule=(); fi # another may begin or end at 0
find_gpus
options=(
    "$data" --save-dir "$save_dir" --tensorboard-logdir "$save_dir/tensorboard"
    --task translation_bang --truncate-source --max-source-positions 512 --max-target-positions 512
    --arch bang_ar_nar_mixed_base --dropout 0.1 --attention-dropout 0.1
    --criterion ngram_language_loss_NAR_mixed --label-smoothing 0.1 "${mode_options[@]}"
    --optimizer adam --adam-betas '(0.9, 0.999)' --weight-decay 0.01 --clip-norm 0.1
    --lr 0.0001 "${schedule[@]}"
    --max-tokens 3072 --update-freq 1 --num-workers 8 --ddp-backend no_c10d "$@"
)
if [[ " $* " != *" --warmup-updates"[=\ ]* ]]; then
    expect 1000 "${options[@]}"
    options+=(--warmup-updates "$warmup")
fi
launch "${options[@]}"
