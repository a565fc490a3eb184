"""scripts/gpu_check.sh: what it says without a GPU, how it reads logs, its report, and its command lines on a CPU."""

import os
import subprocess
import sys
import time
from pathlib import Path

import check_steps
import gpu_check
import pytest
import torch
from check_steps import Step, keep_logs, run_step
from conftest import ROOT, TINY
from gpu_check import Case, Decoding, Training, count_of_tests, decoding_result, report, speeds_result, training_result


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
@pytest.mark.parametrize("interpreter", [sys.executable, "/nowhere/python"])
def test_without_a_gpu_it_says_so_in_one_line(interpreter, tmp_path):
    command = ["bash", ROOT / "scripts" / "gpu_check.sh", tmp_path, "--logs", tmp_path]
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
    assert training_result("noise\n" + training_log(*losses)) == Training(13, 8, 106)
    for losses, message in (([9] * 8, "did not fall"), ([9, 8, "nan", 7], "did not fall"), ([], "no update")):
        with pytest.raises(ValueError, match=message):
            training_result(training_log(*losses))


def test_generation_logs():
    log = "Translated 1,300 sentences (31,200 tokens) in 2.5s (520.00 sentences/s, 12480.00 tokens/s)"
    assert decoding_result(f"noise\n{log}\nmore") == Decoding(1300, 2.5)
    for bad in ("", log.replace("1,300", "0")):
        with pytest.raises(ValueError, match="no sentence"):
            decoding_result(bad)


def test_the_count_of_the_tests():
    count = "13 passed, 400 deselected in 30.10s"
    assert count_of_tests(f".....\n{count}\n") == count
    assert count_of_tests("FAILED a\n1 failed, 12 passed in 3.10s\n") == "1 failed, 12 passed in 3.10s"
    for log, message in (("ss\n2 skipped in 0.2s", "no test passed: 2 skipped in 0.2s"), ("", "no test passed: none ran")):
        with pytest.raises(ValueError, match=message):
            count_of_tests(log)


def test_logs_of_speeds():
    log = f"noise\nmeasuring fp16\n{training_log(6, 5, 4, 3, 2, 1)}measuring bf16\nRuntimeError: no\nmeasuring NAR, batch 128\n"
    log += "Translated 384 sentences (9216 tokens) in 0.5000s\nmeasuring NAR, batch 1\nValueError: texts of 3\n"
    assert speeds_result(log) == {"fp16": Training(4, 3, 103.5), "NAR, batch 128": Decoding(384, 0.5)}
    assert speeds_result("ImportError") == {}


def test_a_step_that_fails_is_told_by_its_last_line(capsys):
    assert run_step("fine", "-c 'print(1)'", int)[::2] == ("fine", None, "1\n")
    assert run_step("fine", "-c 'print(1)'", int).result == 1
    assert run_step("bad", "-c 'print(1); raise SystemExit(\"too bad\")'").error == "too bad"
    assert run_step("ruled", "-c 'print(\"too bad\\n====\"); raise SystemExit(1)'").error == "too bad"
    assert run_step("silent", "-c 'raise SystemExit(3)'").error == "nothing printed"
    assert run_step("unread", "-c 'print()'", training_result).error == "no update was trained"
    assert run_step("read", "-c 'print(1); raise SystemExit(3)'", int)[2:4] == ("1", 1)
    assert capsys.readouterr().err.splitlines()[2] == "bad: too bad, 0 s"


def runs(stat: Path) -> bool:
    """Whether a process, told by its file in /proc, has not ended; one that nobody waits for stays as a zombie."""
    try:
        return stat.read_text().rpartition(") ")[2][0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_a_step_that_takes_too_long_is_killed_with_its_children(tmp_path):
    child = "import time; print(1, flush=True); time.sleep(60)"
    (tmp_path / "parent.py").write_text(
        f"import subprocess, sys; child = subprocess.Popen([sys.executable, '-c', '{child}']); "
        "print(child.pid, flush=True); child.wait()"
    )
    begin = time.perf_counter()
    step = run_step("slow", str(tmp_path / "parent.py"), limit=3)
    assert step.error == "timed out" and time.perf_counter() - begin < 30
    child = Path("/proc") / next(line for line in step.output.splitlines() if line != "1") / "stat"
    while runs(child):  # a process that was killed is on its way out for a moment
        assert time.perf_counter() - begin < 30
        time.sleep(0.05)


def test_logs_are_kept(tmp_path):
    keep_logs([Step("decode, fp16, AR, beam 4", 1, "no", output="all\nof it\n")], tmp_path / "new" / "logs")
    assert (tmp_path / "new" / "logs" / "decode-fp16-ar-beam-4.log").read_text() == "all\nof it\n"


def test_the_report():
    steps = [Step("GPU tests", 20, None, "13 passed in 19s"), Step("train", 1, "a | b")]
    trained = {"fp16": Step("train", 9.6, None, Training(15, 9.5, 1)), "amp": steps[1]}
    speeds = {"fp16": Training(15, 9, 123456), "NAR, batch 1": Decoding(100, 2.0), "NAR, batch 128": Decoding(1000, 0.5)}
    text = report(["GPU: one"], steps, trained, speeds, 99.6)
    assert text.startswith("# On a GPU\n") and "* GPU: one\n" in text and "\n100 seconds in all. " in text
    for line in (
        "| GPU tests | passed (13 passed in 19s) | 20 |",
        "| train | a / b | 1 |",
        "| fp16 | 123,456 | 15.00 | 9.50 |",
        "| amp | failed | failed | failed |",
        "| mode | ms/sentence, batch 1 | sentences/s, batch 128 |",
        "| NAR | 20.0 | 2,000 |",
        "| AR, greedy | failed | failed |",
    ):
        assert line in text.splitlines()
    assert len(gpu_check.machine()) == 3 and f"torch {torch.__version__}" in gpu_check.machine()[1]


def test_the_command_writes_report_and_logs_and_fails_with_its_steps(tmp_path, monkeypatch, capsys):
    steps = [Step("tokenize", 1, None), Step("train, amp", 1, "too bad", output="it was\ntoo bad\n")]
    asked = []
    monkeypatch.setattr(gpu_check, "check", lambda folder, updates: asked.append(updates) or (steps, {"amp": steps[1]}, {}))
    monkeypatch.setattr(gpu_check, "machine", lambda: ["GPU: one"])
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    options = ["--out", tmp_path / "gpu.md", "--logs", tmp_path / "logs", "--updates", "7"]
    monkeypatch.setattr(sys, "argv", ["gpu_check.py", *map(str, options)])
    with pytest.raises(SystemExit, match="error: 1 of 2 steps failed, the first: train, amp; see .*gpu.md"):
        gpu_check.main()
    assert asked == [7] and "| train, amp | too bad | 1 |" in (tmp_path / "gpu.md").read_text()
    assert (tmp_path / "logs" / "train-amp.log").read_text() == "it was\ntoo bad\n"
    assert capsys.readouterr().out.startswith("# On a GPU")


@pytest.mark.slow
def test_its_command_lines_on_a_cpu(tmp_path, monkeypatch):
    """Everything but what a GPU alone can do, with a small model: half precision in bf16."""
    monkeypatch.setattr(check_steps, "LIMIT", 900)
    model = " ".join(["--arch bang_ar_nar_mixed", *TINY, "--distributed-backend gloo"])
    case = Case(model, {"bf16": "--bf16"}, "bf16", {1: 2, 8: 1}, "--cpu --max-tokens 1024")
    steps, trained, speeds = gpu_check.check(tmp_path, 12, case)
    errors = {step.name: step.error for step in steps if step.error}
    if not torch.cuda.is_available():
        assert errors.pop("GPU tests").startswith("no test passed: 1")
    assert errors == {}, [step.output[-3000:] for step in steps if step.error]
    assert [step.name for step in steps[:6]] == [
        "tokenize",
        "binarize",
        "GPU tests",
        "train, bf16",
        "torchrun",
        "torchrun, resumed",
    ]
    assert len(steps) == 12 and all(step.result.sentences > 90 for step in steps[6:-1])
    assert len(speeds) == 11 and speeds["AR, beam 4, batch 8"].sentences == 8
    assert report(gpu_check.machine(), steps, trained, speeds, 100).count("| passed |") == 11
