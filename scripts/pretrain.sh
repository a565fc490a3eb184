#!/usr/bin/env bash
# Pretrains BANG on running text. See --help.
set -euo pipefail

usage() {
    cat <<'END'
usage: scripts/pretrain.sh DATA SAVE_DIR [OPTION of fairseq-train ...]

Pretrains BANG with the published recipe: base size, blocks of 512 word pieces, in every 64 a span of 9
hidden, 9 streams, 35 epochs. States what it will cost before it starts.

  DATA      folders that fairseq-preprocess --only-source wrote, separated by colons, one an epoch in turn
  SAVE_DIR  folder for the checkpoints
  OPTION    any option of fairseq-train; it takes the place of the recipe's, as --max-epoch 5

The optimizer is the published one of fine-tuning. Not published, and so ours: --lr 0.0003,
--warmup-updates 10000 or a tenth of the updates where that is less, --save-interval-updates 1000 and
the two numbers of blocks below.

  BLOCKS (1024)              blocks of an update, over all GPUs
  BLOCKS_AT_ONCE (8)         blocks of a GPU at a time; what is missing to BLOCKS comes from --update-freq

END
    launch_help
}

source "$(dirname "${BASH_SOURCE[0]}")/launch.sh"
case ${1:-} in -h | --help) usage; exit ;; esac
if (($# < 2)); then usage >&2; exit 2; fi
data=$1 save_dir=$2
shift 2

find_gpus
at_once=${BLOCKS_AT_ONCE:-8}
update_freq=$((${BLOCKS:-1024} / (at_once * world)))
options=(
    "$data" --save-dir "$save_dir" --tensorboard-logdir "$save_dir/tensorboard"
    --task bang_pretraining --tokens-per-sample 512 --mask-block 64 --mask-length 9
    --arch bang_ar_nar_mixed_base --max-source-positions 512 --max-target-positions 512
    --criterion ngram_language_loss --ngram 9
    --optimizer adam --adam-betas '(0.9, 0.999)' --weight-decay 0.01 --clip-norm 0.1
    --lr 0.0003 --lr-scheduler inverse_sqrt --warmup-init-lr 1e-07
    --batch-size "$at_once" --update-freq $((update_freq > 0 ? update_freq : 1)) --max-epoch 35
    --num-workers 2 --ddp-backend no_c10d
    --save-interval-updates 1000 --keep-interval-updates 1 --keep-last-epochs 5 "$@"
)
expect 10000 "${options[@]}"
if [[ " $* " != *" --warmup-updates"[=\ ]* ]]; then options+=(--warmup-updates "$warmup"); fi
launch "${options[@]}"
