"""A real torchrun: two processes, and two agents that stand for two machines, train as one process does."""

import os
import shlex
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import ROOT, TINY, train_log

PATH = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
OPTIONS = [
    "--arch", "bang_ar_nar_mixed", *TINY, "--num-workers", "0", "--warmup-updates", "4", "--lr", "0.004", "--max-epoch", "3",
    "--max-tokens", "300", "--dropout", "0", "--attention-dropout", "0", "--log-format", "json", "--log-interval", "1",
    "--disable-validation", "--no-epoch-checkpoints",
]  # fmt: skip


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])


def start(command, **more):
    """A command whose machine has no GPU."""
    environment = {**os.environ, "PATH": PATH, "GPUS": "0", "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1", **more}
    return subprocess.Popen(
        list(map(str, command)), cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def log(*processes):
    """What the first prints, when all have ended well."""
    logs = [process.communicate(timeout=500)[0] for process in processes]
    assert [process.returncode for process in processes] == [0] * len(processes), "\n".join(text[-1500:] for text in logs)
    return logs[0]


@pytest.mark.slow
def test_torchrun_trains_as_one_process(data_bin, tmp_path):
    """The recipe's command on two nodes; its line with one node of two processes; and one that takes two batches an update."""

    def recipe(folder, *options, **more):
        words = ["bash", "scripts/finetune.sh", "--mode", "mixed", *options[:1], data_bin, tmp_path / folder, *OPTIONS]
        return [str(word) for word in words if word], {"NODES": "2", "MASTER_PORT": free_port(), **more}

    command, environment = recipe("nodes", "")
    logs = {"nodes": log(*(start(command, **environment, NODE_RANK=rank) for rank in "01"))}
    command, environment = recipe("processes", "--dry-run")
    line = log(start(command, **environment))
    assert line.startswith("torchrun --nnodes 2 --nproc_per_node 1 --node_rank 0 --master_addr 127.0.0.1 ")
    words = shlex.split(line.replace("--nnodes 2 --nproc_per_node 1", "--nnodes 1 --nproc_per_node 2"))
    logs["processes"] = log(start(words))
    options = words[words.index("fairseq_cli.train") + 1 :]
    options[options.index("--distributed-world-size") + 1] = "1"
    options[options.index("--save-dir") + 1] = str(tmp_path / "one")
    logs["one"] = log(start(["fairseq-train", *options, "--update-freq", "2"]))

    curves = {name: train_log(text) for name, text in logs.items()}
    weights = {name: torch.load(tmp_path / name / "checkpoint_last.pt")["model"] for name in logs}
    assert len(curves["one"]) > 8 and {"ar_loss", "nar_loss"} <= {name for record in curves["one"] for name in record}
    for name in ("nodes", "processes"):
        assert len(curves[name]) == len(curves["one"])
        for ours, expected in zip(curves[name], curves["one"]):
            for key in ("loss", "ar_loss", "nar_loss", "bsz", "num_updates"):
                both = ours.get(key), expected.get(key)  # None where an update is of another mode
                assert both[0] == both[1] or float(both[0]) == pytest.approx(float(both[1]), abs=2e-3), (name, key)
        for key, value in weights["one"].items():
            torch.testing.assert_close(weights[name][key], value, atol=1e-5, rtol=1e-4)
