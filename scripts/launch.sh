# Sourced by the recipes: fairseq-train on what there is, a CPU, a GPU, or many on one or several nodes.

launch_help() {
    cat <<'END'
Runs on the CPU where there is no GPU, else on all visible GPUs of this node; more than one GPU or node
run under torchrun. Precision: --fp16 on GPUs, on a CPU --bf16 where that is faster than float32. A run
that was stopped goes on from SAVE_DIR/checkpoint_last.pt when the command is given again, in the
precision that it began with.
TensorBoard's log goes to SAVE_DIR/tensorboard: tensorboard --logdir SAVE_DIR/tensorboard shows it.

environment (defaults)
  GPUS (those visible)       GPUs of this node
  NODES (1)                  nodes; give the same command on each, with its own NODE_RANK
  NODE_RANK (0)              number of this node
  MASTER_ADDR (127.0.0.1)    address of node 0
  MASTER_PORT (29500)        a free port of node 0
END
}

repository=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

# Sets `gpus` and `nodes`, and `world`, the number of processes that train together.
find_gpus() {
    gpus=${GPUS:-$(python -c 'import torch; print(torch.cuda.device_count())')}
    nodes=${NODES:-1}
    if ((nodes > 1 && gpus == 0)); then
        echo "${0##*/}: error: NODES is $nodes, but this node has no GPU, which fairseq needs under torchrun" >&2
        exit 1
    fi
    world=$((gpus > 0 ? gpus * nodes : 1))
}

# expect MOST OPTION...: states the updates of the run and sets `warmup` to a tenth of them, MOST at the most.
# Needs find_gpus before it.
expect() {
    local expected
    expected=$(python "$repository/scripts/expected_run.py" --world "$world" --warmup "$@")
    if ((${NODE_RANK:-0} == 0)); then printf '%s\n' "$expected"; fi
    warmup=${expected##*warm-up: }
}

# launch OPTION...: fairseq-train with these options; needs find_gpus before it.
launch() {
    # without the number of processes fairseq goes by this node's GPUs, and on one GPU past torchrun
    local options=(--user-dir "$repository/bang" "$@" --distributed-world-size "$world")
    if ((gpus == 0)); then options=(--cpu "${options[@]}"); fi
    local precision
    precision=$(python -m bang.precision --gpus "$gpus" "${options[@]}") # none where the options name one
    options=(${precision:+"$precision"} "${options[@]}")
    if ((world == 1)); then exec fairseq-train "${options[@]}"; fi
    exec torchrun --nnodes "$nodes" --nproc_per_node "$gpus" --node_rank "${NODE_RANK:-0}" \
        --master_addr "${MASTER_ADDR:-127.0.0.1}" --master_port "${MASTER_PORT:-29500}" \
        -m fairseq_cli.train "${options[@]}"
}
