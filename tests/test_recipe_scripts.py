"""What the shell recipes give fairseq-train, in folders whose names have a blank; stand-ins only note their arguments."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import DEBIAN, ROOT
from support.plans import after


@pytest.fixture
def arguments(tmp_path, forked_commands):
    """Runs a script of the checkout "a checkout"; the words that it gives fairseq-train, which then fails."""
    folder = tmp_path / "bin"
    folder.mkdir()
    note = 'printf "%s\\n" "$@" > "$NOTED"; exit 1'
    (folder / "fairseq-train").write_text(f"#!/bin/sh\n{note}\n")
    # what is faster on this CPU is measured for seconds
    (folder / "python").write_text(
        f'#!/bin/sh\ncase "$*" in "-m bang.recipes.precision"*) exit ;; "-m fairseq_cli.train "*) shift 2; {note} ;; esac\n'
        f'exec "{sys.executable}" "$@"\n'
    )
    for program in folder.iterdir():
        program.chmod(0o755)
    (folder / "fairseq_cli").mkdir()  # in which python -m finds the same
    (folder / "fairseq_cli" / "__init__.py").write_text("import pkgutil\n__path__ = pkgutil.extend_path(__path__, __name__)\n")
    (folder / "fairseq_cli" / "train.py").write_text(
        "import os, sys\nopen(os.environ['NOTED'], 'w').write('\\n'.join(sys.argv[1:]) + '\\n')\nsys.exit(1)\n"
    )
    (tmp_path / "a checkout").symlink_to(ROOT)

    def call(script, *words, **environment):
        path = f"{folder}:{Path(sys.executable).parent}:{os.environ['PATH']}"
        ours = {"VIRTUAL_ENV": sys.prefix, "NOTED": str(tmp_path / "noted"), "GPUS": "1", "PATH": path}
        ours |= forked_commands().environment(*[folder] * (script in ("evidence.sh", "quickstart.sh")))
        command = ["bash", tmp_path / "a checkout" / "scripts" / script, *words]
        done = subprocess.run(command, env={**os.environ, **ours, **environment}, capture_output=True, text=True)
        assert done.returncode == 1 and (tmp_path / "noted").exists(), done.stdout[-2000:] + done.stderr[-2000:]
        return (tmp_path / "noted").read_text().splitlines()

    return call


@pytest.fixture
def start(little_bert):
    return little_bert.rename(little_bert.parent / "a bert")


def test_quickstart(arguments, start, tmp_path):
    data, run = tmp_path / "a task", tmp_path / "a run"
    data.mkdir()
    for path in (DEBIAN).glob("*.???"):
        (data / path.name).write_text("a library for archives\n" * 4)
    words = arguments("quickstart.sh", run, QUICKSTART_DATA=str(data), QUICKSTART_START=str(start))
    assert words[0] == str(run / "data") and after(words, "--tensorboard-logdir") == str(run / "tensorboard")
    assert after(words, "--load-from-pretrained-model") == str(start) and after(words, "--pretrained-encoder-layers") == "0,1,2,3"
    fast = torch.cuda.is_available() or torch.backends.cpu.get_cpu_capability() == "AVX512"
    planned = [after(words, option) for option in ("--total-num-update", "--max-update", "--warmup-updates", "--dropout")]
    assert planned == (["2000", "2000", "125", "0.1"] if fast else ["1000", "1000", "62", "0"])


def test_evidence(arguments, start, tmp_path):
    out = tmp_path / "an out"
    for name in ("text", "pairs"):
        (out / name).mkdir(parents=True)
    (out / "pairs" / "test.src-tgt.tgt.idx").touch()  # the data are there already
    words = arguments("evidence.sh", tmp_path, out, BERT=str(start), STARTS="bert", MODES="nar")
    run = out / "seed1" / "nar-from-bert"
    assert words[0] == str(out / "pairs") and after(words, "--tensorboard-logdir") == str(run / "tensorboard")
    assert words.count("--load-from-pretrained-model") == 1 and after(words, "--load-from-pretrained-model") == str(start)
    assert after(words, "--encoder-embed-dim") == "32" and after(words, "--user-dir") == str(ROOT / "bang")


@pytest.mark.parametrize("script", ["evidence", "finetune"])
def test_precision_is_measured_once(script, arguments, data_bin, tmp_path):
    """The answer is kept for all runs that are compared, or is that of the checkpoint; the stand-in of this file has none."""
    out = tmp_path / "an out"
    (out / "pairs").mkdir(parents=True)
    (out / "pairs" / "test.src-tgt.tgt.idx").touch()
    if script == "evidence":
        (out / "precision").write_text("--bf16\n")
        words = arguments("evidence.sh", tmp_path, out, STARTS="scratch", MODES="nar")
    else:  # Python's own module answers, however fast this CPU is
        torch.save(
            {"model": {}, "cfg": {"common": {"bf16": True}, "lr_scheduler": {"warmup_updates": 77}}}, out / "checkpoint_last.pt"
        )
        (tmp_path / "bin" / "python").write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
        words = arguments("finetune.sh", "--mode", "nar", data_bin, out, GPUS="0")
        assert after(words, "--warmup-updates") == "77"  # with another one the learning rate would jump
    assert words.count("--bf16") == 1 and "--fp16" not in words


def test_the_line_of_what_failed_is_told(tmp_path):
    """`logged` and `error_line`, with which the scripts keep logs; none of them keeps one without."""
    code = (
        f'source {ROOT}/scripts/environment.sh; say() {{ echo "x: error: 1"; echo "y.py: Error 2"; echo after; return $1; }}; '
        f"logged {tmp_path}/log say 0; echo went on; logged {tmp_path}/log say 7; echo never"
    )
    environment = {**os.environ, "VIRTUAL_ENV": sys.prefix, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    done = subprocess.run(["bash", "-c", code, "script.sh"], env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (7, "went on\n")
    assert done.stderr == f"script.sh: error: y.py: Error 2 (all of it: {tmp_path}/log)\n"
    for script in (*(ROOT / "scripts").glob("*.sh"), *(ROOT / "research").glob("*.sh")):
        text = script.read_text(encoding="utf-8").replace("\\\n", " ")
        for line in re.findall(r'^.*(?:2>&1|2>+ *"(?!\$name.seconds)).*$\n?.*', text, flags=re.M):
            if "/dev/null" not in line and not line.lstrip().startswith("#"):
                assert re.search(r"logged|error_line|fail |tee -i", line) or '"$@" >>' in line, f"{script.name}: {line}"


def test_finetuning(arguments, tmp_path):
    def words(*options):
        return arguments("finetune.sh", "--mode", "nar", "data", tmp_path / "a run", "--warmup-updates", "9", *options)

    assert after(words(), "--tensorboard-logdir") == str(tmp_path / "a run" / "tensorboard")
    assert "--warmup-init-lr" in words("--lr", "1")
    for scheduler in (["--lr-scheduler", "fixed"], ["--lr-scheduler=fixed"]):  # has no such option
        assert "--warmup-init-lr" not in words(*scheduler) and "inverse_sqrt" not in words(*scheduler)
