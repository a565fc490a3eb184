"""Folders that cannot be written, and a file system that is full: one line, nothing half made, and room again is all it takes.

A tmpfs of its own and an ordinary user need root, which a container's user mostly is; elsewhere these tests are skipped.
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from conftest import GOLDEN, ROOT, TINY, VOCAB_SMALL
from support.kills import strays

pytestmark = pytest.mark.slow
BANG = [sys.executable, "-m", "bang"]
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "ignore", "HOME": "/nowhere"}


def run(*words, check=None):
    done = subprocess.run(
        [str(word) for word in words],
        env=ENVIRONMENT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    )
    if check is not None:
        assert done.returncode == check, done.stdout[-2000:]
    return done


def works(*words):
    return shutil.which(words[0]) is not None and subprocess.run(words, capture_output=True).returncode == 0


def commands(material):
    """By name: a command that writes into a folder that is there."""
    checkpoint = GOLDEN / "mixed" / "checkpoint.pt"
    return {
        "tokenize": lambda out: [*BANG, "tokenize", "--workers", "1", "--out-dir", out, material / "raw.src"],
        "vocabulary": lambda out: [*BANG, "vocabulary", out / "vocab.txt", material / "raw.src"],
        "binarize": lambda out: [*BANG, "binarize", "--vocab", VOCAB_SMALL, material, out],
        "pack": lambda out: [*BANG, "pack", "--vocab", VOCAB_SMALL, checkpoint, out / "model"],
        "export": lambda out: [*BANG, "export", "--vocab", VOCAB_SMALL, checkpoint, out / "model"],
        "clean-up": lambda out: [*BANG, "clean-up", material / "raw.src", out / "text"],
    }


@pytest.fixture(scope="module")
def public():
    """A folder that other users may look into; pytest's own are not."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


@pytest.fixture(scope="module")
def material(public):
    folder = public / "material"
    folder.mkdir()
    (folder / "raw.src").write_text((ROOT / "examples" / "debian" / "train.src").read_text() * 4)
    for side in ("src", "tgt"):
        (folder / f"train.{side}").write_text((GOLDEN / "data" / f"tokenized_train.{side}").read_text() * 200)
    return folder


@pytest.mark.parametrize("name", commands(ROOT))
def test_a_folder_that_an_ordinary_user_may_not_write(name, material, public):
    as_user = ["setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups"]
    if os.getuid() == 0 and not works(*as_user, sys.executable, "-c", f"open({str(VOCAB_SMALL)!r})"):
        pytest.skip("needs setpriv, and a checkout that others may read")
    out = public / name
    out.mkdir(mode=0o555)
    done = run(*(as_user if os.getuid() == 0 else []), *commands(material)[name](out), check=1)
    lines = [line for line in done.stdout.splitlines() if "error" in line]
    assert re.search(r"error: .*[Pp]ermission denied", lines[-1]) and "Traceback" not in done.stdout, done.stdout[-1500:]
    assert not list(out.iterdir())


@pytest.fixture
def small_disk(tmp_path):
    """A folder with room for 150 kB, and how to run a command that sees it."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["unshare", "-m", "sh", "-c"]
    if not works(*mount, f"mount -t tmpfs -o size=150k none {disk}"):
        pytest.skip("needs a file system of its own: root, and unshare")

    def call(words, after="true"):
        """Runs a command; then `after` in the same place. Returns status, output, and what `after` printed."""
        told = tmp_path / "told"
        script = f'mount -t tmpfs -o size=150k none {disk} && {{ "$@"; code=$?; {{ {after}; }} > {told}; exit $code; }}'
        done = run(*mount, script, "x", *words)
        return done.returncode, done.stdout, told.read_text()

    call.disk = disk
    return call


@pytest.mark.parametrize("name", commands(ROOT))
def test_a_full_file_system(name, material, small_disk):
    code, said, left = small_disk(commands(material)[name](small_disk.disk), f"find {small_disk.disk} -type f")
    if name == "vocabulary" and code == 0:
        return  # it has room
    assert code != 0 and re.search("[Nn]o space left on device|too large|full", said), said[-1500:]
    assert "Traceback" not in said or name in ("binarize", "export"), said[-1500:]
    assert not re.findall(r"\.(idx|pt|safetensors|onnx|tmp)$", left, flags=re.M), left


def test_training_goes_on_when_there_is_room_again(data_bin, tmp_path):
    """A limit on the size of files stands in for the full disk."""
    words = [*BANG, "finetune", "--mode", "all", data_bin, tmp_path / "run", *TINY, "--max-epoch", "2", "--batch-size", "16"]
    words += ["--num-workers", "0", "--warmup-updates", "2", "--save-interval", "1"]
    done = run("bash", "-c", 'ulimit -f 300; trap "" XFSZ; exec "$@"', "x", *words)
    assert done.returncode != 0 and re.search("too large|No space", done.stdout), done.stdout[-1500:]
    run(*words, check=0)
    assert (tmp_path / "run" / "checkpoint_last.pt").exists() and not strays(tmp_path / "run")
