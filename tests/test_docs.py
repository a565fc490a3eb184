"""The commands of docs/ run as they stand: recipes as dry runs (their own tests run them), the others for real."""

import os
import re
import shlex
import shutil
import subprocess

import pytest
import torch

from bang.__main__ import main
from conftest import GOLDEN, ROOT

DOCS = ROOT / "docs"
PAGES = sorted(DOCS.glob("*.md"))


def commands():
    for page in PAGES:
        for block in re.findall(r"^```bash\n(.*?)^```", page.read_text(encoding="utf-8"), flags=re.M | re.S):
            for command in block.replace("\\\n", " ").strip().splitlines():
                yield pytest.param(command, id=f"{page.stem}: {' '.join(command.split()[:3])}")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """What the commands find: raw pairs, a start, a teacher, texts, and the log of a run."""
    (tmp_path / "raw").mkdir()
    for path in (ROOT / "examples" / "debian").glob("*.???"):
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True)[:16]
        (tmp_path / "raw" / path.name).write_text("".join(lines), encoding="utf-8")
    shutil.copy(GOLDEN / "mixed" / "checkpoint.pt", tmp_path / "start.pt")
    (tmp_path / "task" / "checkpoints").mkdir(parents=True)
    teacher = {"model": {"decoder.embed_tokens.weight": torch.zeros(30522, 1)}}
    torch.save(teacher, tmp_path / "task" / "checkpoints" / "checkpoint_best.pt")
    (tmp_path / "task" / "train.log").write_text('| INFO | train_inner | {"loss": "9", "num_updates": "50"}\n')
    for name in ("ar.txt", "nar.txt"):
        shutil.copy(tmp_path / "raw" / "test.tgt", tmp_path / name)
    (tmp_path / "scripts").symlink_to(ROOT / "scripts")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("command", commands())
def test_command(command, folder, capfd):
    words = shlex.split(command)
    if words[0] == "bang":
        if words[1] in ("run-task", "distill"):
            main([*words[1:], *([] if "--dry-run" in words else ["--dry-run"])])
            assert "fairseq-train" in (shown := capfd.readouterr().out) or "finetune.sh" in shown
        else:
            before = set(folder.rglob("*"))
            main(words[1:])
            assert set(folder.rglob("*")) > before  # scores, a picture
    else:  # a torchrun that only shows its arguments stands in for several machines
        (folder / "torchrun").write_text('#!/bin/sh\necho "$@"\n')
        (folder / "torchrun").chmod(0o755)
        environment = {**os.environ, "GPUS": "2", "PATH": f"{folder}:{os.environ['PATH']}"}
        done = subprocess.run(
            ["bash", "-euc", f"{command} --warmup-updates 1"], env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0 and "--nnodes 2 --nproc_per_node 2 --node_rank 0" in done.stdout, done.stderr


def test_links():
    """Pages, files and headings that the pages name are there."""
    headings = {
        page.name: {re.sub(r"[^\w -]", "", line[2:].strip(" #")).lower().replace(" ", "-") for line in re.findall(r"^#.*$", page.read_text(), flags=re.M)}
        for page in PAGES
    }
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        for target in re.findall(r"\]\(([^)]+)\)", text):
            name, _, heading = target.partition("#")
            assert (DOCS / name).exists(), f"{page.name}: {target}"
            assert not heading or any(heading == found.lstrip("-") for found in headings[name]), f"{page.name}: {target}"
        for path in re.findall(r"`((?:bang|scripts|tests|benchmarks|examples)/[\w./-]+)`", text):
            assert (ROOT / path).exists(), f"{page.name} names {path}"


def test_every_page_is_in_the_index():
    index = (DOCS / "README.md").read_text(encoding="utf-8")
    assert all(f"]({page.name})" in index for page in PAGES if page.name != "README.md")
