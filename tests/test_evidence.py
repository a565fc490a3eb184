"""The comparison of docs/results.md: the whole script on little data, and its score."""

import os
import re
import select
import shutil
import signal
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


@pytest.fixture
def data(tmp_path):
    """A few pairs and texts."""
    data = tmp_path / "data"
    data.mkdir()
    for path in (ROOT / "examples" / "debian").glob("*.???"):
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True)[:40]
        (data / path.name).write_text("".join(lines), encoding="utf-8")
    sources = (ROOT / "examples" / "debian" / "train.src").read_text(encoding="utf-8").splitlines()[:200]
    (data / "text.txt").write_text("\n\n".join(sources) + "\n", encoding="utf-8")
    return data


@pytest.mark.parametrize("start", ["ngram9", pytest.param("bert+ngram2", marks=pytest.mark.slow)])
def test_evidence_script(start, data, little_bert, tmp_path):
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


@pytest.fixture
def script(tmp_path):
    """Starts the script on an OUT in float32; `training` is what a shell does in place of fairseq-train."""

    def start(out, training="", descriptors=(), **environment):
        (tmp_path / "bin").mkdir(exist_ok=True)
        python = tmp_path / "bin" / "python"
        python.write_text(
            "#!/usr/bin/env bash\n"
            f'case "$*" in "-m bang.recipes.precision") exit ;; "-m fairseq_cli.train "*) {training} ;; esac\n'
            f'exec "{sys.executable}" "$@"\n'
        )
        python.chmod(0o755)
        path = f"{python.parent}:{Path(sys.executable).parent}:{os.environ['PATH']}"
        return subprocess.Popen(
            ["bash", ROOT / "scripts" / "evidence.sh", tmp_path / "data", out],
            env={**os.environ, "PATH": path, "VIRTUAL_ENV": sys.prefix, **environment},
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, pass_fds=descriptors,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # ignored where the tests run in the background
        )  # fmt: skip

    return start


@pytest.fixture
def prepared(tmp_path):
    """An OUT whose data seem to be there already."""
    pairs = tmp_path / "prepared" / "pairs"
    pairs.mkdir(parents=True)
    (pairs / "test.src-tgt.tgt.idx").touch()
    return pairs.parent


@pytest.mark.slow
def test_jobs_side_by_side_make_the_same_table(data, script, tmp_path):
    few = {
        "WIDTH": "32", "LAYERS": "1", "MIN_COUNT": "2", "PRETRAIN_UPDATES": "2", "FINETUNE_UPDATES": "2", "LR": "0.01",
        "STARTS": "ngram2 scratch", "MODES": "nar", "OMP_NUM_THREADS": "1",
    }  # fmt: skip
    one, two = tmp_path / "one", tmp_path / "two"
    printed, error = script(one, **few, JOBS="1").communicate()
    assert (one / "means.tsv").exists(), printed + error
    for part in ("text", "pairs"):  # all that is needed of an OUT that was prepared elsewhere
        shutil.copytree(one / part, two / part)
    printed, error = script(two, **few, JOBS="2").communicate()
    assert (two / "means.tsv").exists(), printed + error
    assert (two / "results.tsv").read_text() == (one / "results.tsv").read_text()
    assert len((two / "means.tsv").read_text().splitlines()) == 3
    steps = re.findall(r"^\S+ (training|trained) .*/(\S+)", printed, re.MULTILINE)
    assert steps[:2] == [("training", "ngram2"), ("training", "nar-from-scratch")] and steps[2][0] == "trained"
    assert steps.index(("trained", "ngram2")) < steps.index(("training", "nar-from-ngram2"))
    assert len(steps) == len(set(steps)) == 6


def test_a_job_that_fails(script, prepared):
    training = 'case "$*" in *from-scratch*) echo out of memory; exit 1 ;; *) sleep 1; exit ;; esac'
    done = script(prepared, training, STARTS="ngram2 scratch", MODES="nar ar", JOBS="2", SEEDS="1")
    printed, error = done.communicate()
    run = prepared / "seed1"
    assert done.returncode == 1 and error == f"evidence.sh: error: {run}/nar-from-scratch: out of memory\n"
    assert (run / "ngram2" / "train.log").exists() and f"trained {run}/ngram2 in " in printed  # it was beside it
    assert {path.name for path in run.iterdir()} == {"ngram2", "nar-from-scratch"}  # no other began


def test_control_c_ends_the_trainings(script, prepared):
    reading, writing = os.pipe()  # its end comes when no training has it any more
    going = script(prepared, f"echo >&{writing}; sleep 999", STARTS="scratch", JOBS="2", SEEDS="1", descriptors=[writing])
    os.close(writing)
    for _ in range(2):
        assert os.read(reading, 1) == b"\n"
    going.send_signal(signal.SIGINT)
    _, error = going.communicate(timeout=20)
    assert going.returncode == 130 and error == ""
    assert select.select([reading], [], [], 20)[0] and os.read(reading, 1) == b""
    os.close(reading)


def test_jobs_is_a_number(tmp_path):
    command = ["bash", ROOT / "scripts" / "evidence.sh", tmp_path, tmp_path / "out"]
    done = subprocess.run(command, env={**os.environ, "JOBS": "0"}, capture_output=True, text=True)
    assert done.returncode == 2 and done.stderr == "evidence.sh: error: JOBS 0: give a number from 1\n"


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
