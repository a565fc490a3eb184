"""Which worker was lost, in one line."""

import os
import signal
import socket
import subprocess
import sys
import traceback

import pytest
from torch.multiprocessing.spawn import ProcessExitedException

from bang.plugin import command_line, workers

GLOO = RuntimeError("[/pytorch/gloo/transport/tcp/pair.cc:537] Read error [127.0.0.1]:33175: Connection reset by peer\n more")
AGAIN = "; this one ends too; given again, the same commands go on from the last checkpoint"


@pytest.fixture
def others(monkeypatch):
    """Two other workers, sleeping processes, and one on another machine."""
    processes = [subprocess.Popen(["sleep", "60"]) for _ in range(2)]
    here = socket.gethostname()
    known = [(here, os.getpid()), *((here, process.pid) for process in processes)]
    monkeypatch.setattr(workers, "_workers", known)
    yield processes
    for process in processes:
        process.kill()
        process.wait()


def test_who_died_or_is_stopped_is_named(others):
    one, two = (process.pid for process in others)
    os.kill(two, signal.SIGSTOP)
    os.waitid(os.P_PID, two, os.WSTOPPED)
    assert workers.describe_loss(GLOO) == f"worker 2 (process {two}) is stopped{AGAIN}"
    os.kill(one, signal.SIGKILL)
    os.waitid(os.P_PID, one, os.WEXITED | os.WNOWAIT)  # nobody has waited for it
    assert workers.describe_loss(GLOO) == f"worker 1 (process {one}) died{AGAIN}"
    others[0].wait()
    others[1].kill()
    others[1].wait()
    assert workers.describe_loss(GLOO) == f"worker 1 (process {one}) and worker 2 (process {two}) died{AGAIN}"


def test_one_on_another_machine(others, monkeypatch):
    monkeypatch.setattr(workers, "_workers", [*workers._workers, ("far", 1)])
    monkeypatch.setattr(workers, "DYING", 0)
    said = workers.describe_loss(GLOO)
    assert said.startswith("another worker on far died or does not answer ([/pytorch/gloo") and "\n" not in said


def test_other_errors_and_runs_of_one_process_keep_their_traceback(others, monkeypatch):
    assert workers.describe_loss(RuntimeError("mat1 and mat2 shapes cannot be multiplied")) is None
    assert workers.describe_loss(KeyError("gloo")) is None
    monkeypatch.setattr(workers, "_workers", [])
    assert workers.describe_loss(GLOO) is None


def test_a_spawned_one():
    error = ProcessExitedException("process 1 terminated with signal SIGKILL", 1, 77, -9, "SIGKILL")
    assert workers.describe_loss(error) == f"worker 1 (process 77) ended with signal SIGKILL{AGAIN}"


def test_fairseqs_commands_tell_it_without_a_traceback(others, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["fairseq-train"])
    monkeypatch.setattr(sys, "excepthook", lambda *error: traceback.print_exception(*error))
    command_line.print_user_errors()
    others[0].kill()
    others[0].wait()
    sys.excepthook(type(GLOO), GLOO, None)
    assert capsys.readouterr().err == f"fairseq-train: error: {workers.describe_loss(GLOO)}\n"
