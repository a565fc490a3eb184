"""The command `bang`: its subcommands, found by name, and how it ends."""

import importlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import GOLDEN, ROOT
from support.kills import of_session

import bang
from bang import cli, packages
from bang.__main__ import COMMANDS, main


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


@pytest.mark.parametrize("arguments, package, module, wanted", [
    (["generate", "{export}"], "onnxruntime", "bang.inference.onnx_engine", "'.[runtime]'"),
    (["generate", "{checkpoint}"], "torch", "bang.inference.torch_engine", "."),
    (["export", "{checkpoint}", "new"], "onnx", "bang.deploy.export", "'.[export]'"),
    (["export", "{checkpoint}", "new"], "onnxscript", "bang.deploy.export", "'.[export]'"),
    (["pack", "{checkpoint}", "new"], "safetensors", "bang.deploy.pack", "."),
    (["starts", "{checkpoint}"], "torch", "bang.deploy.convert", "."),
    (["options"], "fairseq", "bang.plugin.options_page", "."),
])  # fmt: skip
def test_a_package_that_is_not_installed(arguments, package, module, wanted, tmp_path, monkeypatch):
    config = dict(format="bang export", version=1, modes=["ar"], shares={}, precision="float32", generation={},
                  specials=[0, 1, 2], max_source_positions=9, max_target_positions=9, num_buckets=32,
                  relative_max_distance=128)  # fmt: skip
    (tmp_path / "config.json").write_text(json.dumps(config))
    for name in [package, *(name for name in sys.modules if name.startswith(f"{package}."))]:
        monkeypatch.setitem(sys.modules, name, None)  # as Python takes what it cannot find
    monkeypatch.delitem(sys.modules, module, raising=False)
    paths = {"export": tmp_path, "checkpoint": GOLDEN / "mixed" / "checkpoint.pt"}
    with pytest.raises(SystemExit) as stop:
        main([argument.format_map(paths) for argument in arguments])
    assert stop.value.code == f"bang {arguments[0]}: error: needs {package}, which is not installed: pip install {wanted}"


@pytest.mark.parametrize("package, extra, wanted", [
    ("onnxruntime", "runtime", "'onnxruntime>=1.22' tokenizers"),
    ("torch", "", "'torch>=2.6' ve-fairseq"),
    ("gradio", "no-such-extra", "gradio"),
])  # fmt: skip
def test_installed_without_its_sources(package, extra, wanted, tmp_path, monkeypatch):
    """There '.' is no package, and 'bang' of a package index is somebody else's: packages are named one by one."""
    monkeypatch.setattr(packages, "CHECKOUT", tmp_path)
    required = [
        "torch>=2.6",
        "ve-fairseq",
        'onnxruntime>=1.22; extra == "runtime"',
        'tokenizers; extra == "runtime"',
        'onnx; extra == "export"',
    ]
    monkeypatch.setattr(packages.metadata, "requires", {"bang": required}.__getitem__)
    assert packages.install_command(package, extra) == f"pip install {wanted}"


def test_a_checkout_is_named_from_elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert packages.install_command("onnx", "export") == f"pip install '{ROOT}[export]'"


@pytest.mark.parametrize("arguments, message", [
    (["generate", "model", "--max-length", "5"], "unrecognized arguments: --max-length 5; maybe --max-len is meant"),
    (["generate", "model", "--onerror=blank"], "unrecognized arguments: --onerror=blank; maybe --on-error is meant"),
    (["pack", "a", "b", "--zzz"], "unrecognized arguments: --zzz"),
    (["pack", "a", "b", "c"], "unrecognized arguments: c"),
])  # fmt: skip
def test_unknown_options_name_the_near_one(arguments, message, capsys):
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 2
    assert capsys.readouterr().err.splitlines()[-1] == f"bang {arguments[0]}: error: {message}"


def test_the_version_is_told_once(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["--version"])
    assert stop.value.code == 0 and capsys.readouterr().out == f"bang {bang.__version__}\n"
    assert re.search(r'^version = \{ attr = "bang.__version__" \}$', (ROOT / "pyproject.toml").read_text(), flags=re.M)


@pytest.mark.parametrize("line, wanted", [
    ("bang gen", {"generate"}),
    ("bang generate model --mode ", {"ar", "semi-nar", "nar", "speculative"}),
    ("bang generate model --sampling-", {"--sampling-topk", "--sampling-topp"}),
    ("bang run-task raw --st", {"--start"}),
])  # fmt: skip
def test_a_shell_completes(line, wanted, tmp_path):
    """As argcomplete's script asks; without torch."""
    pytest.importorskip("argcomplete")
    environment = {**os.environ, "COMP_LINE": line, "COMP_POINT": str(len(line)), "_ARGCOMPLETE": "1",
                   "_ARGCOMPLETE_STDOUT_FILENAME": str(tmp_path / "found")}  # fmt: skip
    done = subprocess.run([sys.executable, "-m", "bang"], env=environment, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert {word.strip() for word in (tmp_path / "found").read_text().split("\013")} == wanted


def test_console_script():
    assert 'bang = "bang.__main__:main"' in (ROOT / "pyproject.toml").read_text()


def test_reader_that_has_seen_enough():
    command = f"yes some words | head -200000 | {sys.executable} -m bang tokenize - --workers 1 | head -1"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, cwd=ROOT)
    assert (done.stdout, done.stderr) == ("some words\n", "")


def test_a_traceback_is_to_be_had(monkeypatch, tmp_path):
    monkeypatch.setenv("BANG_TRACEBACK", "1")
    with pytest.raises(FileNotFoundError, match="none: no such model"):
        main(["generate", str(tmp_path / "none")])
    monkeypatch.setenv("BANG_TRACEBACK", "0")
    with pytest.raises(SystemExit, match="^bang generate: error: .*none: no such model"):
        main(["generate", str(tmp_path / "none")])


def test_names_that_are_no_utf_8(tmp_path):
    """They are printed as they came."""
    words = [sys.executable, "-m", "bang", "visibility", "--length", "4", "--out", b"\xff/gone"]
    done = subprocess.run(words, cwd=ROOT, capture_output=True)
    assert done.returncode == 1 and b"Traceback" not in done.stderr and len(done.stderr.splitlines()) == 1
    words = [sys.executable, "-m", "bang", "binarize", "--dry-run", tmp_path, os.fsencode(tmp_path) + b"/\xff"]
    (tmp_path / "train.src").write_text("a\n")
    (tmp_path / "train.tgt").write_text("a\n")
    done = subprocess.run(words, cwd=ROOT, capture_output=True, env={**os.environ, "LC_ALL": "C.UTF-8", "PYTHONUTF8": "1"})
    assert done.returncode == 0 and b"\xff" in done.stdout, done.stderr


ENDED_IN_AN_IMPORT = """
import os, runpy, signal, sys
class Ends:
    def find_spec(name, *_):
        if name == module:
            os.kill(os.getpid(), number)
number, module = signal.Signals(int(sys.argv.pop(1))), sys.argv.pop(1)
sys.meta_path.insert(0, Ends)
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell in the background has it ignored
runpy.run_module("bang", run_name="__main__", alter_sys=True)
"""


@pytest.mark.parametrize("number, module, arguments", [
    (signal.SIGTERM, "bang.cli.finetune", ["finetune", "--mode", "nar", "data", "out"]),
    (signal.SIGINT, "bang.recipes.precision", ["finetune", "--mode", "nar", "data", "out", "--warmup-updates", "1"]),
    (signal.SIGTERM, "bang.recipes.steps", ["run-task", "raw", "--mode", "nar", "--out", "out"]),
    (signal.SIGTERM, "onnxruntime", ["generate", "{exported}"]),
])  # fmt: skip
def test_a_signal_while_modules_are_imported(number, module, arguments, exported, tmp_path):
    """It ends the command at once: libraries would take an exception for a failed import."""
    words = [sys.executable, "-c", ENDED_IN_AN_IMPORT, str(int(number)), module]
    done = subprocess.run(
        [*words, *(word.format(exported=exported) for word in arguments)], cwd=tmp_path, capture_output=True, text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)}, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (-number, "") and not list(tmp_path.iterdir())


@pytest.mark.parametrize("whole_group", [False, True])
def test_a_signal_in_the_first_second_of_finetuning(whole_group, data_bin, tmp_path):
    """While another process counts the updates."""
    words = ["bash", ROOT / "scripts" / "finetune.sh", "--mode", "nar", data_bin, tmp_path / "out"]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True)
    while not any(b"expected_run" in Path(f"/proc/{child}/cmdline").read_bytes() for child in of_session(process.pid)):
        assert process.poll() is None
        time.sleep(0.02)
    (os.killpg if whole_group else os.kill)(process.pid, signal.SIGTERM)
    said = process.communicate(timeout=20)
    assert (process.returncode, *said) == (143, b"", b"")
    end = time.monotonic() + 5  # a child that was being started ends with its parent, a little later
    while of_session(process.pid):
        assert time.monotonic() < end
        time.sleep(0.02)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("closed", ["stdin", "stdout"])
def test_closed_streams_are_told_in_one_line(closed, monkeypatch):
    monkeypatch.setattr(sys, closed, None)  # as Python has it for `<&-` and `>&-`
    with pytest.raises(SystemExit, match=f"^bang generate: error: {closed} is closed, and texts are"):
        main(["generate", "model"])
