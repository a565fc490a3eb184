"""scripts/gpu_check.sh: what it says without a GPU, how it reads logs, its report, and its command lines on a CPU."""

import os
import subprocess
import sys

import gpu_check
import pytest
import torch
from gpu_check import Decoding, Step, Training, decoding_result, report, run_step, training_result

from conftest import ROOT, TINY


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
@pytest.mark.parametrize("interpreter", [sys.executable, "/nowhere/python"])
def test_without_a_gpu_it_says_so_in_one_line(interpreter, tmp_path):
    command = ["bash", ROOT / "scripts" / "gpu_check.sh", tmp_path]
    done = subprocess.run(command, capture_output=True, text=True, cwd="/", env={**os.environ, "PYTHON": interpreter})
    assert (done.returncode, done.stdout) == (1, "")
    expected = f"gpu_check.sh: no GPU that the torch of {interpreter} can use: run this on a machine with one\n"
    assert done.stderr == expected


def training_log(*losses):
    return "".join(
        f'2026-01-01 | INFO | train_inner | {{"epoch": 1, "loss": "{loss}", "wps": "{100 + i}", "num_updates": "{i + 1}"}}\n'
        for i, loss in enumerate(losses)
    )


def test_training_logs():
    losses = [15, 14, 13, 12, 11, 10, 9, 8, 7, 6]
    assert training_result("noise\n" + training_log(*losses)) == Training(13, 8, 107)
    for losses, message in (([9] * 8, "did not fall"), ([9, 8, "nan", 7], "did not fall"), ([], "no update")):
        with pytest.raises(ValueError, match=message):
            training_result(training_log(*losses))


def test_generation_logs():
    log = "Translated 1,300 sentences (31,200 tokens) in 2.5s (520.00 sentences/s, 12480.00 tokens/s)"
    assert decoding_result(f"noise\n{log}\nmore") == Decoding(1300, 2.5)
    for log in ("", log.replace("1,300", "0")):
        with pytest.raises(ValueError, match="no sentence"):
            decoding_result(log)


def test_a_step_that_fails_is_told_by_its_last_line(capsys):
    assert run_step("fine", "-c 'print(1)'", int)[::2] == ("fine", None)
    assert run_step("fine", "-c 'print(1)'", int).result == 1
    assert run_step("bad", "-c 'print(1); raise SystemExit(\"too bad\")'").error == "too bad"
    assert run_step("silent", "-c 'raise SystemExit(3)'").error == "nothing printed"
    assert run_step("unread", "-c 'print()'", training_result).error == "no update was trained"


def test_the_report():
    fast, slow = Step("decode", 3, None, Decoding(100, 0.5)), Step("one", 3, None, Decoding(100, 2.0))
    trained = {"fp16": Step("train", 9.6, None, Training(15, 9.5, 123456)), "amp": Step("train", 1, "out of memory")}
    text = report(["GPU: one"], [fast, trained["amp"]], trained, {("NAR", 128): fast, ("NAR", 1): slow, ("AR", 1): trained["amp"]})
    assert text.startswith("# On a GPU\n") and "* GPU: one\n" in text
    for line in (
        "| decode | passed | 3 |",
        "| train | out of memory | 1 |",
        "| fp16 | 123,456 | 15.00 | 9.50 |",
        "| mode | ms/sentence, batch 1 | sentences/s, batch 128 |",
        "| NAR | 20.0 | 200 |",
        "| AR | failed |",
    ):
        assert line in text.splitlines()
    assert len(gpu_check.machine()) == 3 and f"torch {torch.__version__}" in gpu_check.machine()[1]


@pytest.mark.slow
def test_its_command_lines_on_a_cpu(tmp_path):
    """Everything but what a GPU alone can do, with a small model: half precision in bf16."""
    data, steps = gpu_check.prepare(tmp_path)
    model = " ".join(["--arch bang_ar_nar_mixed", *TINY])
    steps.append(gpu_check.train("train", data, tmp_path / "model", "--cpu --bf16 --max-update 12 --max-tokens 2048", model=model))
    checkpoint = tmp_path / "model" / "checkpoint_last.pt"
    decoded = {
        (mode, 8): gpu_check.generate(mode, data, checkpoint, f"{how} --cpu --bf16 --batch-size 8", shards=20)
        for mode, how in list(gpu_check.DECODINGS.items())[::2]
    }
    assert [step for step in [*steps, *decoded.values()] if step.error] == []
    assert {step.result.sentences for step in decoded.values()} == {16}
    assert report(gpu_check.machine(), steps, {"bf16": steps[-1]}, decoded).count("passed") == 3
