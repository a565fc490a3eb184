"""The comparison of docs/results.md: the whole script on little data, and its score."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from conftest import ROOT
from rouge import rouge


def test_rouge_by_hand(tmp_path):
    (tmp_path / "hypo").write_text("the cats sat\n\n")
    (tmp_path / "ref").write_text("The cat slept here\nnothing said\n")
    scores = rouge(tmp_path / "hypo", tmp_path / "ref")
    # first line: 2 of 3 and 2 of 4 words (stemmed), 1 of 2 and 1 of 3 pairs; the empty line scores 0
    assert scores["ROUGE-1"] == scores["ROUGE-L"] == pytest.approx(100 * (2 * 2 / 7) / 2)
    assert scores["ROUGE-2"] == pytest.approx(100 * (2 * 1 / 5) / 2)
    (tmp_path / "ref").write_text("one line\n")
    with pytest.raises(ValueError, match="has 2 lines, .* 1: give one text for each reference"):
        rouge(tmp_path / "hypo", tmp_path / "ref")


@pytest.mark.parametrize("start", ["ngram9", pytest.param("bert+ngram2", marks=pytest.mark.slow)])
def test_evidence_script(start, little_bert, tmp_path):
    data = tmp_path / "data"
    data.mkdir()
    for path in (ROOT / "examples" / "debian").glob("*.???"):
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True)[:40]
        (data / path.name).write_text("".join(lines), encoding="utf-8")
    sources = (ROOT / "examples" / "debian" / "train.src").read_text(encoding="utf-8").splitlines()[:200]
    (data / "text.txt").write_text("\n\n".join(sources) + "\n", encoding="utf-8")
    training = tmp_path / "out" / "seed1" / start
    training.mkdir(parents=True)
    (training / "running.log").write_text("what a stopped run logged\n")
    environment = {
        **os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "WIDTH": "32", "LAYERS": "1",
        "MIN_COUNT": "2", "PRETRAIN_UPDATES": "2", "FINETUNE_UPDATES": "2", "STARTS": start, "MODES": "semi-nar",
        **({"BERT": str(little_bert), "DECODER_LAYERS": "1"} if "bert" in start else {}),
    }  # fmt: skip
    command = ["bash", ROOT / "scripts" / "evidence.sh", data, tmp_path / "out"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    vocabulary = (tmp_path / "out" / "vocab.txt").read_text(encoding="utf-8").splitlines()
    published = (ROOT / "vocab.txt").read_text(encoding="utf-8").splitlines()
    assert vocabulary[:104] == published[:104] and 600 < len(vocabulary) < 3000  # the rare pieces are left out
    (row,) = (tmp_path / "out" / "results.tsv").read_text().splitlines()[1:]
    assert re.fullmatch(rf"1\tsemi-nar\t{re.escape(start)}(\t[\d.]+){{5}}\t\d+", row)
    header, mean = (tmp_path / "out" / "means.tsv").read_text().splitlines()
    assert header.startswith("seeds\tmode") and [float(cell) for cell in mean.split("\t")[3:]] == [
        float(cell) for cell in row.split("\t")[3:]
    ]
    assert {path.name for path in (tmp_path / "out").glob("*.png")} == {"seed1-semi-nar.png", "seed1-pretraining.png"}
    assert {path.parts[-4] for path in (tmp_path / "out").rglob("tensorboard/*/events.*")} == {start, f"semi-nar-from-{start}"}
    log = (training / "train.log").read_text()
    assert log.startswith("what a stopped run logged\n") and "done training" in log
    if "bert" in start:
        assert f"started from the pretrained model {little_bert} (bert)" in log


def test_a_misspelt_start_is_refused(tmp_path):
    for starts, message in (("ngram", "choose scratch, ngramN, bert"), ("bert+ngram9", "give BERT=FOLDER")):
        command = ["bash", ROOT / "scripts" / "evidence.sh", tmp_path, tmp_path / "out"]
        done = subprocess.run(command, env={**os.environ, "STARTS": starts}, capture_output=True, text=True)
        assert done.returncode == 2 and message in done.stderr and done.stderr.count("\n") == 1


def test_a_misspelt_mode_is_refused(tmp_path):
    command = ["bash", ROOT / "scripts" / "evidence.sh", tmp_path, tmp_path / "out"]
    done = subprocess.run(command, env={**os.environ, "MODES": "nar seminar"}, capture_output=True, text=True)
    assert done.returncode == 2 and done.stderr == "evidence.sh: error: MODES seminar: choose nar, ar or semi-nar\n"
    assert not (tmp_path / "out").exists()


def test_the_comparison_for_a_gpu_needs_a_bert(tmp_path):
    command = ["bash", ROOT / "scripts" / "evidence.sh", "--gpu", tmp_path, tmp_path / "out"]
    done = subprocess.run(command, env={**os.environ, "BERT": ""}, capture_output=True, text=True)
    assert done.returncode == 2 and done.stderr == "evidence.sh: error: --gpu: give BERT=FOLDER\n"
