"""The README's recipes run as they stand, on little data and a little model."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from conftest import ROOT, TINY

LITTLE = [*TINY[:-1], "--max-update", "4", "--warmup-updates", "2"]  # appended: argparse takes the last


def blocks(section, language="bash"):
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    section = re.search(rf"^## {section}\n(.*?)(?=^## )", text, flags=re.M | re.S)[1]
    return re.findall(rf"^```{language}\n(.*?)^```", section, flags=re.M | re.S)


def in_folder(folder, script):
    path = f"{folder / 'bin'}:{Path(sys.executable).parent}:{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "ignore"}
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script], cwd=folder, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-3000:]


@pytest.fixture(scope="module")
def checkout(tmp_path_factory):
    """What the README's commands find: the repository's files, and little raw data."""
    folder = tmp_path_factory.mktemp("checkout")
    for name in ("bang", "vocab.txt", "scripts", "post_processed_nar.py"):
        (folder / name).symlink_to(ROOT / name)
    (folder / "bin").mkdir()  # what pip makes of the console script
    (folder / "bin" / "bang").write_text(f'#!/bin/sh\nexec "{sys.executable}" -m bang "$@"\n')
    (folder / "bin" / "bang").chmod(0o755)
    (folder / "raw").mkdir()
    for path in (ROOT / "examples" / "debian").glob("*.???"):
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True)[:16]
        (folder / "raw" / path.name).write_text("".join(lines), encoding="utf-8")
        if path.suffix == ".src" and path.stem != "test":  # a document every four lines
            text = "".join(line + "\n" * (number % 4 == 3) for number, line in enumerate(lines))
            (folder / "raw" / f"text.{path.stem}").write_text(text, encoding="utf-8")
    return folder


def test_recipes(checkout):
    tmp_path = checkout
    recipes = blocks("Recipes")
    assert len(recipes) >= 5
    prepare, train, *generate = recipes
    in_folder(tmp_path, prepare)
    # a pretrained model of the little size, as one more training run would leave it
    start = re.sub(r"--load-from-pretrained-model \S+", "", train).replace("--save-dir checkpoints", "--save-dir start")
    in_folder(tmp_path, start.rstrip() + " " + " ".join(LITTLE))
    shutil.copy(tmp_path / "start" / "checkpoint_last.pt", tmp_path / "pretrained.pt")
    in_folder(tmp_path, train.rstrip() + " " + " ".join(LITTLE))
    assert torch.load(tmp_path / "checkpoints" / "checkpoint_last.pt")["optimizer_history"][-1]["num_updates"] == 4
    for block in generate:
        in_folder(tmp_path, block)
    for name in ("ar.log", "nar.log", "interactive.log", "semi_nar.log"):
        assert len(re.findall(r"^H-\d+\t", (tmp_path / name).read_text(), flags=re.M)) == 16
    assert len((tmp_path / "hypo.dedup").read_text().splitlines()) == 16
    published = re.search(r"`(grep \^H nar.log .*?) > hypo`", (ROOT / "README.md").read_text())[1]
    in_folder(tmp_path, f"{published} > published")
    assert (tmp_path / "published").read_text() == (tmp_path / "hypo").read_text()


def test_use_a_model(checkout):
    """After the recipes, whose checkpoint it packs."""
    pack, interactive = blocks("Use a model")
    in_folder(checkout, pack)
    assert len((checkout / "texts").read_text().splitlines()) == 16
    (python,) = blocks("Use a model", "python")
    (checkout / "use.py").write_text(python, encoding="utf-8")
    in_folder(checkout, "python use.py")
    in_folder(checkout, interactive)
    assert len(re.findall(r"^D-\d+\t", (checkout / "raw.log").read_text(), flags=re.M)) == 16


def test_pretraining(checkout):
    """After the recipes, whose binarized pairs it fine-tunes on."""
    (block,) = blocks("Pretraining")
    commands = block.strip().split("\n\n")
    assert len(commands) == 4
    for command in commands:
        is_training = command.startswith("bash scripts/")
        in_folder(checkout, command + (" " + " ".join(LITTLE) if is_training else ""))
    for folder in ("pretraining", "finetuned"):
        state = torch.load(checkout / folder / "checkpoint_last.pt")
        assert state["optimizer_history"][-1]["num_updates"] == 4
