"""The command `bang`: its subcommands, found by name, and how it ends."""

import importlib
import subprocess
import sys

import pytest

from bang import cli
from bang.__main__ import COMMANDS, main
from conftest import ROOT


def test_listing_the_commands_loads_neither_torch_nor_fairseq():
    code = (
        "import sys\nfrom bang.__main__ import main\n"
        "try: main(['--help'])\nexcept SystemExit as stop: assert stop.code == 0\n"
        "assert not {'torch', 'fairseq', 'transformers', 'onnxruntime', 'gradio'} & sys.modules.keys(), sys.modules.keys()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    for command in COMMANDS:
        assert importlib.import_module(f"{cli.__name__}.{command}").HELP in " ".join(done.stdout.split())


def test_mistakes_are_one_line(capsys):
    for arguments, message in (
        (["collect", "no-such-log", "out"], "no-such-log: no such file or directory"),
        (["evaluate", "no-such-text", "--reference", "README.md"], "no-such-text: no such file or directory"),
        (["curves", "no-such-log", "out.png"], "no-such-log: no such file or directory"),
        (["collect", ".", "out"], ".: is a directory"),
    ):
        with pytest.raises(SystemExit) as stop:
            main(arguments)
        assert stop.value.code == f"bang {arguments[0]}: error: {message}"
    for arguments in ([], ["no-such-command"]):
        with pytest.raises(SystemExit) as stop:
            main(arguments)
        assert stop.value.code == 2
    assert "tokenize" in capsys.readouterr().err


def test_console_script_and_former_names():
    assert 'bang = bang.__main__:main' in (ROOT / "setup.py").read_text()
    for script, command in (("tokenize_text", "tokenize"), ("collect_hypotheses", "collect")):
        done = subprocess.run(
            [sys.executable, ROOT / "scripts" / f"{script}.py", "--help"], capture_output=True, text=True, env={"PYTHONPATH": str(ROOT)}
        )
        assert done.stdout.startswith(f"usage: bang {command} ")


def test_reader_that_has_seen_enough():
    command = f"yes some words | head -200000 | {sys.executable} -m bang tokenize - --workers 1 | head -1"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, cwd=ROOT)
    assert (done.stdout, done.stderr) == ("some words\n", "")
