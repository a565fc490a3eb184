"""Every command that writes is killed at random moments, alone or with its children, and given again.

Nothing half made stands under its name, no child lives on, the command given again finishes, and what it leaves equals
what a run leaves that was not killed. BANG_KILLS says how often each command is killed.
"""

import json
import os
import random
import re
import shlex
import shutil
import subprocess
import sys
import time

import pytest
import torch
from conftest import GOLDEN, ROOT, TINY, VOCAB_SMALL
from support.kills import Killed, after, content, logged, strays

from bang.safety import files

pytestmark = pytest.mark.slow
KILLS = int(os.environ.get("BANG_KILLS") or 6)
ENVIRONMENT = {
    **os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "ignore",
    "VIRTUAL_ENV": sys.prefix, "PATH": f"{os.path.dirname(sys.executable)}:{os.environ['PATH']}",
}  # fmt: skip
BANG = [sys.executable, "-m", "bang"]
LOGS = r"\.log$|README|\.lock$"


def run(words):
    done = subprocess.run(
        [str(word) for word in words],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        env=ENVIRONMENT,
    )
    assert done.returncode == 0, done.stdout[-2000:]
    return done.stdout


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    """Raw text and word pieces, long enough that a kill comes in the middle."""
    folder = tmp_path_factory.mktemp("text")
    for side in ("src", "tgt"):
        (folder / f"raw.{side}").write_text((ROOT / "examples" / "debian" / f"train.{side}").read_text() * 40)
        (folder / f"train.{side}").write_text((GOLDEN / "data" / f"tokenized_train.{side}").read_text() * 300)
    return folder


def commands(text):
    """By name: a command that writes to a folder."""
    prefix = ["--user-dir", ROOT / "bang", "--task", "translation_bang", "--source-lang", "src", "--target-lang", "tgt"]
    prefix += ["--trainpref", text / "train", "--srcdict", VOCAB_SMALL, "--tgtdict", VOCAB_SMALL, "--workers", "3"]
    model = ["--vocab", VOCAB_SMALL, GOLDEN / "mixed" / "checkpoint.pt"]
    return {
        "tokenize": lambda out: [*BANG, "tokenize", "--workers", "2", "--out-dir", out, text / "raw.src", text / "raw.tgt"],
        "binarize": lambda out: [*BANG, "binarize", "--vocab", VOCAB_SMALL, "--workers", "3", text, out],
        "preprocess": lambda out: [sys.executable, "-m", "fairseq_cli.preprocess", *prefix, "--destdir", out],
        "pack": lambda out: [*BANG, "pack", *model, out],
        "export": lambda out: [*BANG, "export", *model, out],
        "unpack": lambda out: [*BANG, "unpack", out.parent / "packed", out],
    }


@pytest.mark.parametrize("name", commands(ROOT))
def test_commands(name, text, tmp_path):
    words, moments = commands(text)[name], random.Random(name)
    if name == "unpack":
        run(commands(text)["pack"](tmp_path / "packed"))
    start = time.monotonic()
    run(words(tmp_path / "whole"))
    took = time.monotonic() - start
    wanted = content(tmp_path, r"^packed/|" + LOGS)
    held = 0
    for number in range(KILLS):
        shutil.rmtree(tmp_path / "out", ignore_errors=True)
        (tmp_path / "out").unlink() if (tmp_path / "out").is_file() else None
        until = moments.uniform(0.2, 1) * took
        killed = Killed(words(tmp_path / "out"), after(until), tmp_path / "log", number % 2 == 0, env=ENVIRONMENT)
        assert not killed.children, f"{len(killed.children)} children live on"
        if name != "preprocess":  # fairseq's own, which writes in place
            found = content(tmp_path, r"^packed/|^whole|\.tmp(/|$)|^log$|" + LOGS)
            assert found.items() <= {path.replace("whole", "out", 1): digest for path, digest in wanted.items()}.items()
        if name in ("pack", "export") and (tmp_path / "out").exists():
            continue  # it was finished
        run(words(tmp_path / "out"))
        found = content(tmp_path, r"^packed/|^whole|^log$|" + LOGS)
        assert found == {path.replace("whole", "out", 1): digest for path, digest in wanted.items()}
        assert not strays(tmp_path)
        held += killed.in_time
    print(f"{name}: {KILLS} kills, {held} while it ran, {took:.1f} s undisturbed")


def test_binarize_into_a_folder_with_older_data(text, tmp_path):
    """Never a new text beside an old index: that would be read as data."""
    for side in ("src", "tgt"):
        (tmp_path / f"train.{side}").write_text((GOLDEN / "data" / f"tokenized_train.{side}").read_text())
    words = [*BANG, "binarize", "--vocab", VOCAB_SMALL, "--workers", "2"]
    run([*words, tmp_path, tmp_path / "old"])
    run([*words, text, tmp_path / "new"])
    whole = [content(tmp_path / name, LOGS) for name in ("old", "new")]
    out, moments = tmp_path / "out", random.Random(3)

    def begins_to_replace(file, delay):
        """For `Killed`: a little after the first of the new files is there."""
        before, since = file.stat().st_ino, []

        def when(seconds, _):
            if file.stat().st_ino != before and not since:
                since.append(seconds)
            return bool(since) and seconds > since[0] + delay

        return when

    for _ in range(KILLS):
        shutil.rmtree(out, ignore_errors=True)
        shutil.copytree(tmp_path / "old", out)
        when = begins_to_replace(out / "dict.src.txt", moments.uniform(0, 0.001))
        assert not Killed([*words, text, out], when, tmp_path / "log", True, env=ENVIRONMENT).children
        found = content(out, LOGS + r"|\.tmp/")
        for name in ("train.src-tgt.src", "train.src-tgt.tgt"):
            pairs = [(data[f"{name}.bin"], data[f"{name}.idx"]) for data in whole]
            assert f"{name}.idx" not in found or (found[f"{name}.bin"], found[f"{name}.idx"]) in pairs


NET = [*TINY, "--max-epoch", "3", "--batch-size", "12", "--lr", "0.003", "--num-workers", "0", "--save-interval", "1"]
NET += [
    "--warmup-updates",
    "2",
    "--save-interval-updates",
    "3",
    "--keep-last-epochs",
    "2",
    "--log-interval",
    "1",
    "--log-format",
    "json",
]


def losses(said):
    """Loss and gradient norm by update."""
    records = [json.loads(line) for line in re.findall(r"\| train_inner \| (\{.*\})", said)]
    return {record["num_updates"]: (record["loss"], record.get("gnorm")) for record in records}


def equal(one, other):
    states = [files.read(str(path / "checkpoint_last.pt")) for path in (one, other)]
    weights = [state["model"] for state in states]
    return all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


@pytest.fixture(scope="module")
def undisturbed(data_bin, tmp_path_factory):
    """A training that is not killed, and its losses."""
    folder = tmp_path_factory.mktemp("undisturbed")
    return folder, losses(run([*BANG, "finetune", "--mode", "all", data_bin, folder, *NET]))


def test_training(data_bin, undisturbed, tmp_path):
    """Killed again and again behind random updates: losses and weights are those of the run that was not."""
    words, moments, said, number = [*BANG, "finetune", "--mode", "all", data_bin, tmp_path / "run", *NET], random.Random(1), "", 0
    for update in sorted(moments.sample(range(2, len(undisturbed[1]) - 1), min(KILLS, len(undisturbed[1]) - 3))):
        killed = Killed(
            words, logged(f'"num_updates": "{update}", "lr"'), tmp_path / "log", True,
            env=ENVIRONMENT,
        )  # fmt: skip
        said, number = said + killed.said, number + killed.in_time
        assert not killed.children
    said += run(words)
    assert losses(said) == undisturbed[1] and equal(undisturbed[0], tmp_path / "run")
    assert not strays(tmp_path / "run") and not (tmp_path / "run" / ".lock").exists()
    print(f"training: {number} kills, {len(undisturbed[1])} updates, equal bit by bit")


HALF = """
import os, signal
from bang.plugin import checkpoint_files
plain = checkpoint_files.shutil.copyfileobj
def copy(source, target, length):
    if ".{name}." in target.name and os.path.exists("{when}"):
        os.remove("{when}")
        target.write(source.read(1000))
        target.flush()
        os.kill(os.getpid(), signal.SIGKILL)
    plain(source, target, length)
checkpoint_files.shutil.copyfileobj = copy
from fairseq_cli.train import cli_main
cli_main()
"""


@pytest.mark.parametrize("name", ["checkpoint_last.pt", "checkpoint_best.pt"])
def test_a_kill_while_a_checkpoint_is_copied(name, data_bin, undisturbed, tmp_path):
    """Of plain fairseq-train: no half file, and the run given again equals one that was not killed."""
    planned = run([*BANG, "finetune", "--mode", "all", "--dry-run", data_bin, tmp_path / "run", *NET])
    options = shlex.split(planned)[1:]
    (tmp_path / "when").touch()
    program = HALF.format(name=name, when=tmp_path / "when")
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.argv[0] = 'fairseq-train'; import bang.plugin\n{program}", *options],
        env=ENVIRONMENT, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == -9 and strays(tmp_path / "run"), done.stderr[-2000:]
    for path in (tmp_path / "run").glob("*.pt"):
        files.read(str(path))  # whole
    run([*BANG, "finetune", "--mode", "all", data_bin, tmp_path / "run", *NET])
    assert equal(undisturbed[0], tmp_path / "run") and not strays(tmp_path / "run")


def test_a_second_training_in_a_folder_is_refused(data_bin, tmp_path):
    words = [*BANG, "finetune", "--mode", "all", data_bin, tmp_path / "run", *NET]
    many = [*words, "--max-epoch", "500"]
    refused = []

    def when(seconds, log):
        if "train_inner" not in log.read_text(errors="replace"):
            return False
        refused.append(subprocess.run(list(map(str, many)), env=ENVIRONMENT, capture_output=True, text=True))
        return True

    Killed(many, when, tmp_path / "log", True, env=ENVIRONMENT)
    last = refused[0].stderr.strip().splitlines()[-1]
    assert refused[0].returncode == 1 and "Traceback" not in refused[0].stderr
    assert re.search(r"run: process \d+ on .*fairseq-train.* works there: wait for it, end it, or give another folder", last), (
        last
    )
    run(words)  # its lock went with it


@pytest.fixture(scope="module")
def task(tmp_path_factory):
    """`bang run-task` on some real pairs, by its folder."""
    raw = tmp_path_factory.mktemp("task") / "raw"
    raw.mkdir()
    for part, lines in (("train", 96), ("valid", 24), ("test", 24)):
        for side in ("src", "tgt"):
            pairs = (ROOT / "examples" / "debian" / f"{part}.{side}").read_text().splitlines(keepends=True)[:lines]
            (raw / f"{part}.{side}").write_text("".join(pairs))
    vocab = raw.parent / "vocab.txt"
    run([*BANG, "vocabulary", vocab, raw / "train.src", raw / "train.tgt"])

    def words(out, *more):
        train = " ".join([*NET, *more])
        return [*BANG, "run-task", raw, "--mode", "nar", "--out", out, "--vocab", vocab, "--workers", "2", "--train", train]

    return words


NOT_COMPARED = r"steps/|tensorboard|\.log$|curves\.png|checkpoints/|scores\.json|count\.txt|^log|\.lock$|\.unfinished$"


def test_run_task_killed_alone(task, tmp_path):
    """As where memory runs out: its children end, a training after it has saved, and the task given again goes on."""
    start = time.monotonic()
    run(task(tmp_path / "whole"))
    took, moments = time.monotonic() - start, random.Random(2)
    for _ in range(max(KILLS // 2, 2)):
        until = moments.uniform(0.05, 0.5) * took
        killed = Killed(task(tmp_path / "out"), after(until), tmp_path / "log", False, 30, env=ENVIRONMENT)
        assert not killed.children
    run(task(tmp_path / "out"))
    assert content(tmp_path / "out", NOT_COMPARED) == content(tmp_path / "whole", NOT_COMPARED)
    assert equal(tmp_path / "whole" / "checkpoints", tmp_path / "out" / "checkpoints")


def test_two_tasks_in_a_folder(task, tmp_path):
    """The second says whose the folder is; the first, killed, leaves it free; a full disk refuses nothing for good."""
    said = []

    def when(seconds, log):
        if "binarize" not in log.read_text(errors="replace"):
            return False
        said.append(subprocess.run(list(map(str, task(tmp_path / "out"))), env=ENVIRONMENT, capture_output=True, text=True))
        return True

    Killed(task(tmp_path / "out"), when, tmp_path / "log", True, env=ENVIRONMENT)
    assert said[0].returncode == 1
    last = said[0].stderr.strip().splitlines()[-1]
    assert re.search(r"^bang run-task: error: .*: process \d+ on .*run-task.* works there: ", last), last
    run(task(tmp_path / "out"))
    (tmp_path / "out" / "steps" / "fine-tune.json").unlink()
    more = [str(word) for word in task(tmp_path / "out", "--max-epoch", "4")]
    limited = ["bash", "-c", 'ulimit -f 0; trap "" XFSZ; exec "$@"', "x", *more]
    full = subprocess.run(limited, env=ENVIRONMENT, capture_output=True, text=True)
    assert full.returncode == 1 and "Traceback" not in full.stderr and "too large" in full.stderr
    run(more)
