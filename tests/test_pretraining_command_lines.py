"""The recipes, end to end: pretraining on shards of text, killed and resumed, then every mode of fine-tuning."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import GOLDEN, ROOT, TINY, VOCAB_SMALL, last_line, train_log

CPU = {"GPUS": "0", "CUDA_VISIBLE_DEVICES": "", "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
SMALL = ["--arch", "bang_ar_nar_mixed", *TINY, "--num-workers", "0", "--warmup-updates", "4", "--lr", "0.004"]
JSON_LOG = ["--log-format", "json", "--log-interval", "1"]
PRETRAIN = [
    ROOT / "scripts" / "pretrain.sh", *SMALL, *JSON_LOG, "--tokens-per-sample", "128", "--sample-break-mode", "none",
    "--batch-size", "2", "--update-freq", "1", "--required-batch-size-multiple", "1", "--max-epoch", "16",
    "--save-interval-updates", "5",
]  # fmt: skip


def pretrain_command(data, save_dir, *options):
    return [str(part) for part in (PRETRAIN[0], data, save_dir, *PRETRAIN[1:], *options)]


def losses(log):
    return [(int(record["num_updates"]), record["loss"]) for record in train_log(log)]


@pytest.fixture(scope="module")
def shards(run, tmp_path_factory):
    """Two shards of the golden sources, four lines a document; their colon-separated list."""
    folder = tmp_path_factory.mktemp("text")
    lines = (GOLDEN / "data" / "tokenized_train.src").read_text(encoding="utf-8").splitlines()
    for number, part in enumerate((lines[:30], lines[30:])):
        documents = ["\n".join(part[start : start + 4]) for start in range(0, len(part), 4)]
        (folder / f"text{number}").write_text("\n\n".join(documents) + "\n", encoding="utf-8")
        run(
            "fairseq-preprocess", "--user-dir", ROOT / "bang", "--task", "bang_pretraining", "--only-source", "--srcdict",
            VOCAB_SMALL, "--trainpref", folder / f"text{number}", "--validpref", folder / "text0",
            "--destdir", folder / f"bin{number}",
        )  # fmt: skip
    return f"{folder / 'bin0'}:{folder / 'bin1'}"


@pytest.fixture(scope="module")
def pretrained(run, shards, tmp_path_factory):
    """A whole run of pretrain.sh: its folder and what it printed."""
    folder = tmp_path_factory.mktemp("pretrained")
    return folder, run(*pretrain_command(shards, folder), env=CPU)


def test_pretraining_states_its_updates_and_learns(pretrained):
    folder, log = pretrained
    found = losses(log)
    expected = re.search(r"expected: (\d+) updates of \d+ blocks, 16 epochs of a shard, 2 shard\(s\)", log)
    assert int(expected[1]) == found[-1][0] == len(found)
    assert "cost: up to" in log and "warm-up: " in log
    first, last = (sum(float(loss) for _, loss in part) / 10 for part in (found[:10], found[-10:]))
    assert last < first - 0.5
    assert list((folder / "tensorboard").rglob("events.*"))
    state = torch.load(folder / "checkpoint_last.pt")
    assert state["cfg"]["model"]["ngram"] == 9 and state["cfg"]["task"]["mask_length"] == 9
    assert state["model"]["decoder.ngram_input_embed.weight"].shape == (1, 48)


@pytest.mark.slow
def test_a_killed_run_continues_as_if_never_killed(pretrained, run, shards, tmp_path):
    whole = losses(pretrained[1])
    environment = {**os.environ, "PYTHONWARNINGS": "ignore", "OMP_NUM_THREADS": "1", **CPU}
    process = subprocess.Popen(
        pretrain_command(shards, tmp_path), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment,
        start_new_session=True,
    )  # fmt: skip
    seen = []
    for line in process.stdout:
        seen += losses(line)
        if seen and seen[-1][0] == 11:  # in the second shard, one update after a checkpoint
            break
    os.killpg(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    resumed = losses(run(*pretrain_command(shards, tmp_path), env=CPU))
    assert seen == whole[:11]
    start = resumed[0][0]  # after the last checkpoint before the kill
    assert 11 <= start < len(whole)
    assert resumed == whole[start - 1 :]


MODES = {
    "ar": {"ar_loss"},
    "nar": {"nar_loss"},
    "semi-nar": {"semi-nar_loss"},
    "mixed": {"ar_loss", "nar_loss", "semi-nar_loss"},
    "n-stream": {"ar_loss"},
    "all": {"ar_loss", "nar_loss", "semi-nar_loss"},
}


@pytest.mark.parametrize("mode", [pytest.param(mode, marks=() if mode == "all" else pytest.mark.slow) for mode in MODES])
def test_finetuning_in_every_mode_from_the_pretrained_model(mode, pretrained, run, data_bin, tmp_path):
    log = run(
        ROOT / "scripts" / "finetune.sh", "--mode", mode, data_bin, tmp_path, *SMALL, *JSON_LOG, "--max-update", "3",
        "--load-from-pretrained-model", pretrained[0] / "checkpoint_last.pt", env=CPU,
    )  # fmt: skip
    assert "started from the pretrained model" in log
    assert len(losses(log)) == 3
    valid = train_log(log, "valid")[-1]
    assert {name.removeprefix("valid_") for name in valid if re.fullmatch(r"valid_(ar|nar|semi-nar)_loss", name)} == MODES[mode]
    cfg = torch.load(tmp_path / "checkpoint_last.pt")["cfg"]
    assert cfg["model"]["ngram"] == (9 if mode == "n-stream" else 1)
    assert cfg["criterion"]["stream_decay"] == (0.7 if mode == "n-stream" else 1)


@pytest.mark.slow
def test_the_warmup_of_a_recipe_fits_the_run(run, data_bin, tmp_path):
    """A fairseq-train that only shows its arguments stands in."""
    (tmp_path / "fairseq-train").write_text('#!/bin/sh\necho "$@"\n')
    (tmp_path / "fairseq-train").chmod(0o755)
    path = {**CPU, "PATH": f"{tmp_path}:{CPU['PATH']}"}
    # 48 pairs, 16 an update, 50 epochs
    line = run(ROOT / "scripts" / "finetune.sh", "--mode", "nar", data_bin, "save", "--batch-size", "16", env=path)
    assert line.startswith("expected: 150 updates, 50 epochs of 48 pairs\nwarm-up: 15\n") and "--warmup-updates 15 " in line
    command = [ROOT / "scripts" / "finetune.sh", "--mode", "nar", tmp_path / "none", "save"]
    assert last_line(run(*command, env=path, fails=True)).startswith("fairseq-train: error: ")
    assert "--warmup-updates=7 " in run(*command, "--warmup-updates=7", env=path)  # nothing to count


@pytest.mark.slow
def test_several_nodes_run_under_torchrun(run, shards, data_bin, tmp_path):
    """A torchrun that only shows its arguments stands in for the GPUs."""
    (tmp_path / "torchrun").write_text('#!/bin/sh\necho "$@"\n')
    (tmp_path / "torchrun").chmod(0o755)
    nodes = {"GPUS": "4", "NODES": "2", "NODE_RANK": "1", "MASTER_ADDR": "10.0.0.1", "PATH": f"{tmp_path}:{CPU['PATH']}"}
    for command in (["pretrain.sh", shards], ["finetune.sh", "--mode", "nar", data_bin]):
        line = run(ROOT / "scripts" / command[0], *command[1:], "save", "--max-update", "37", env=nodes)
        launcher, options = line.split(" -m fairseq_cli.train ")
        assert launcher == "--nnodes 2 --nproc_per_node 4 --node_rank 1 --master_addr 10.0.0.1 --master_port 29500"
        assert options.startswith("--fp16 ") and options.endswith(
            "--max-update 37 --warmup-updates 3 --distributed-world-size 8\n"
        )
        if command[0] == "pretrain.sh":
            assert "--batch-size 8 --update-freq 16 " in options  # 1024 blocks an update


def test_precision_and_device(run, tmp_path):
    """--fp16 on a GPU unless another precision is asked for; --cpu without one."""
    (tmp_path / "fairseq-train").write_text('#!/bin/sh\necho "$@"\n')
    (tmp_path / "fairseq-train").chmod(0o755)
    path = f"{tmp_path}:{CPU['PATH']}"

    def words(gpus, *options):
        command = [ROOT / "scripts" / "finetune.sh", "--mode", "ar", "data", "save", "--warmup-updates", "9", *options]
        return run(*command, env={"GPUS": gpus, "PATH": path}).split()

    assert words("1")[0] == "--fp16" and "--cpu" in words("0")[:2]  # --bf16 is first where it is faster
    for option in ("--bf16", "--amp", "--fp16", "--memory-efficient-fp16"):
        assert words("1", option)[0] == "--user-dir"


@pytest.mark.slow
def test_bad_input_gets_one_line(run, shards, tmp_path):
    first, second = shards.split(":")

    def error(data, *options):
        return last_line(run(*pretrain_command(data, tmp_path / "save", *options), env=CPU, fails=True))

    assert "--ngram 10 is larger than the span of --mask-length 9" in error(shards, "--ngram", "10")
    assert f"{tmp_path / 'none' / 'train'}.bin or .idx is missing" in error(f"{first}:{tmp_path / 'none'}")
    other = tmp_path / "other"
    other.mkdir()
    for name in ("train.bin", "train.idx"):
        (other / name).symlink_to(Path(second) / name)
    (other / "dict.txt").write_text(VOCAB_SMALL.read_text(encoding="utf-8") + "extra 1\n", encoding="utf-8")
    assert "binarize all shards with one --srcdict" in error(f"{first}:{other}")
    assert not (tmp_path / "save" / "checkpoint_last.pt").exists()


def test_an_unknown_mode_gets_one_line(run):
    output = run(ROOT / "scripts" / "finetune.sh", "--mode", "art", "data", "save", env=CPU, fails=True)
    assert output == "bang finetune: error: --mode art: choose ar, nar, semi-nar, mixed, n-stream, all\n"
