"""The comparison of docs/results.md: the whole script on little data, its trainings, and how it ends."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import evidence
import pytest
from conftest import ROOT, copy_pairs, debian
from support.plans import after


@pytest.fixture
def data(tmp_path):
    """A few pairs and texts."""
    data = copy_pairs(tmp_path / "data", 40)
    (data / "text.txt").write_text("\n\n".join(debian("train.src")[:200]) + "\n", encoding="utf-8")
    return data


@pytest.mark.slow
@pytest.mark.parametrize("start", ["ngram9", "bert+ngram2"])
def test_evidence_script(start, data, little_bert, tmp_path):
    training = tmp_path / "out" / "seed1" / start
    training.mkdir(parents=True)
    (training / "train.log").write_text("what a stopped run logged\n")
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
def script(data, tmp_path, forked_commands):
    """Starts the script on an OUT in float32; `training` is Python that stands in for fairseq-train."""

    def start(out, training="", forked=True, **environment):
        out.mkdir(exist_ok=True)
        (out / "precision").touch()
        if training:
            (tmp_path / "in_place" / "fairseq_cli").mkdir(parents=True)
            (tmp_path / "in_place" / "fairseq_cli" / "__init__.py").touch()
            (tmp_path / "in_place" / "fairseq_cli" / "train.py").write_text(training)
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        python_path = os.pathsep.join(filter(None, [str(tmp_path / "in_place"), os.environ.get("PYTHONPATH")]))
        ours = forked_commands().environment(tmp_path / "in_place") if forked else {"PYTHONPATH": python_path}
        return subprocess.Popen(
            ["bash", ROOT / "scripts" / "evidence.sh", data, out],
            env={**os.environ, **ours, "PATH": path, "VIRTUAL_ENV": sys.prefix, **environment},
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            # Where the tests run in the background the signal is ignored.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        )  # fmt: skip

    return start


@pytest.fixture
def prepared(tmp_path):
    """An OUT whose data seem to be there already."""
    for name in ("text", "pairs"):
        (tmp_path / "prepared" / name).mkdir(parents=True)
    (tmp_path / "prepared" / "pairs" / "test.src-tgt.tgt.idx").touch()
    return tmp_path / "prepared"


@pytest.mark.slow
def test_jobs_side_by_side_make_the_same_table(script, tmp_path):
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
    assert (two / "results.tsv").read_text() == (one / "results.tsv").read_text() == printed
    assert len((two / "means.tsv").read_text().splitlines()) == 3
    steps = [name.removesuffix("-seed1") for name in re.findall(r"^\[\d/7\] (\S+)$", error, re.MULTILINE)]
    assert set(steps[:2]) == {"ngram2", "nar-from-scratch"} and steps[2] == "nar-from-ngram2" and len(steps) == 7
    _, error = script(two, **few, JOBS="2").communicate()
    assert error.count(": up to date") == 7


def test_a_job_that_fails(script, prepared):
    """It ends the run with its error; the training beside it comes to its end, and no other begins."""
    training = """
import sys, time
from pathlib import Path
folder = Path(sys.argv[sys.argv.index("--save-dir") + 1])
if "from-scratch" in folder.name:
    sys.exit("out of memory")
time.sleep(1)
(folder / "checkpoint_last.pt").touch()
"""
    printed, error = (done := script(prepared, training, STARTS="ngram2 scratch", MODES="nar ar", JOBS="2")).communicate()
    run = prepared / "seed1"
    last = error.splitlines()[-1]
    assert done.returncode == 1 and last.startswith("evidence.sh: error: nar-from-scratch-seed1: ")
    assert last.endswith(f" ended with status 1: out of memory; its log: {run}/nar-from-scratch/train.log")
    assert (prepared / "steps" / "ngram2-seed1.json").exists()  # it was beside it
    assert {path.name for path in run.iterdir()} == {"ngram2", "nar-from-scratch"}


@pytest.mark.parametrize("number, status", [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_control_c_ends_the_trainings(number, status, script, prepared, tmp_path):
    training = f"""
import os, time
from pathlib import Path
Path({str(tmp_path)!r}, f"{{os.getpid()}}.began").touch()
time.sleep(999)
"""
    going = script(prepared, training, forked=False, STARTS="scratch", JOBS="2")
    while len(began := list(tmp_path.glob("*.began"))) < 2:
        assert going.poll() is None, going.communicate()
        time.sleep(0.1)
    going.send_signal(number)
    _, error = going.communicate(timeout=20)
    assert going.returncode == status and "Traceback" not in error
    assert not any(Path("/proc", path.stem).exists() for path in began)


def test_options_of_each_training(data, tmp_path):
    """What fairseq-train is given: the streams, the start, the schedule; and what no training goes on with if it changes."""

    def trainings(**environment):
        settings = evidence.Settings({"STARTS": "ngram9 scratch", "SEEDS": "1 2", **environment})
        steps = evidence.Comparison(data, tmp_path / "out", settings).plan.steps
        return {step.name: step for step in steps if step.resumes}

    def words(step):
        return list(map(str, step.commands[0].words))

    found = trainings()
    assert len(found) == 2 * (1 + 3 * 2)
    assert [step.group for step in found.values()] == 8 * ["trainings"] + 6 * ["trainings that go on"]
    pretraining, nar = words(found["ngram9-seed2"]), words(found["nar-from-ngram9-seed2"])
    assert [after(pretraining, option) for option in ("--ngram", "--batch-size", "--seed")] == ["9", "16", "2"]
    assert after(nar, "--load-from-pretrained-model") == str(tmp_path / "out" / "seed2" / "ngram9" / "checkpoint_last.pt")
    planned = ["--warmup-updates", "--total-num-update", "--max-update", "--validate-interval-updates", "--lr", "--nar-ratio"]
    assert [after(nar, option) for option in planned] == ["43", "700", "700", "176", "0.001", "1"]
    assert after(words(found["semi-nar-from-scratch-seed1"]), "--block-size") == "4"
    assert "--load-from-pretrained-model" not in words(found["ar-from-scratch-seed1"])
    before = found["ngram9-seed1"].settings
    others = {"PRETRAIN_UPDATES": "99", "PRETRAIN_LR": "0.1", "PRETRAIN_BATCH": "8", "CLIP": "2", "DROPOUT": "0.2", "LENGTH": "9"}
    changed = trainings(**others, TRAIN="--fp16")
    assert before == "2400 updates of 16, LR 0.001, LENGTH 128, CLIP 1.0, DROPOUT 0"
    assert changed["ngram9-seed1"].settings == "99 updates of 8, LR 0.1, LENGTH 9, CLIP 2, DROPOUT 0.2, TRAIN '--fp16'"


def test_the_gpus_defaults(little_bert):
    settings = evidence.Settings({"BERT": str(little_bert), "LENGTH": "64"}, gpu=True)
    assert (settings.seeds, settings.length, settings.jobs, settings.min_count) == (["1", "2", "3"], 64, 12, 0)
    assert (settings.lr, settings.pretrain_lr, settings.decoder_layers) == ("0.0004", "0.0001", 3)
    assert settings.starts == ["bert+ngram9", "bert+ngram1", "bert", "scratch"]


@pytest.mark.parametrize(
    "options, variables, message",
    [
        ([], {"JOBS": "0"}, "JOBS 0: give a number from 1"),
        ([], {"STARTS": "ngram"}, "STARTS ngram: choose scratch, ngramN, bert or bert+ngramN"),
        ([], {"STARTS": "bert+ngram9"}, "STARTS bert+ngram9: give BERT=FOLDER"),
        ([], {"MODES": "nar seminar"}, "MODES seminar: choose nar, ar or semi-nar"),
        (["--gpu"], {"BERT": ""}, "--gpu: give BERT=FOLDER"),
    ],
    ids=str,
)
def test_mistakes(options, variables, message, forked_commands, tmp_path):
    command = ["bash", ROOT / "scripts" / "evidence.sh", *options, tmp_path, tmp_path / "out"]
    environment = {**os.environ, **forked_commands().environment(), **variables}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 2 and done.stderr == f"evidence.sh: error: {message}\n"
    assert not (tmp_path / "out").exists()
