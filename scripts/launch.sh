# Sourced by the recipes: fairseq-train on what there is, a CPU, a GPU, or many on one or several nodes.
# Sets `world`, the number of processes that train together, and the function `launch`.

launch_help() {
    cat <<'END'
Runs on the CPU where there is no GPU, else on all visible GPUs of this node, with --fp16; more than one
GPU or node run under torchrun. A run that was stopped goes on from SAVE_DIR/checkpoint_last.pt when the
command is given again.

environment (defaults)
  GPUS (those visible)       GPUS of this node
  NODES (1)                  nodes; give the same command on each, with its own NODE_RANK
  NODE_RANK (0)              number of this node
  MASTER_ADDR (127.0.0.1)    address of node 0
  MASTER_PORT (29500)        a free port of node 0
END
}

repository=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
gpus=${GPUS:-$(python -c 'import torch; print(torch.cuda.device_count())')}
nodes=${NODES:-1}
if ((nodes > 1 && gpus == 0)); then
    echo "${0##*/}: error: NODES is $nodes, but this node has no GPU, which fairseq needs under torchrun" >&2
    exit 1
fi
world=$((gpus > 0 ? gpus * nodes : 1))

# launch OPTION...: fairseq-train with these options.
launch() {
    local options=(--user-dir "$repository/bang" "$@")
    if ((gpus > 0)); then options=(--fp16 "${options[@]}"); fi
    if ((world == 1)); then exec fairseq-train "${options[@]}"; fi
    # fairseq looks at torchrun's environment only where the number of processes is not 1
    exec torchrun --nproc_per_node "$gpus" --nnodes "$nodes" --node_rank "${NODE_RANK:-0}" \
        --master_addr "${MASTER_ADDR:-127.0.0.1}" --master_port "${MASTER_PORT:-29500}" \
        -m fairseq_cli.train "${options[@]}" --distributed-world-size "$world"
}
