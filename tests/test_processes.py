"""A child ends with its parent however that ends, and one process at a time works in a folder."""

import os
import signal
import subprocess
import sys

import pytest
from conftest import ROOT
from support.kills import ended, lines

from bang import processes
from bang.errors import UserError

STARTS = """
import sys
from bang import processes
if sys.argv[1] == "elsewhere":  # as on a system without such a signal
    processes._prctl = lambda: None
with processes.started(["sleep", "60"]) as process:
    print(process.pid, flush=True)
    if len(sys.argv) > 2:
        process.kill()
"""
FORKS = """
import os, sys, time
from bang import processes
if sys.argv[1] == "elsewhere":
    processes._prctl = lambda: None
parent = os.getpid()
if not os.fork():
    processes.end_with_parent(parent)
    print(os.getpid(), flush=True)
time.sleep(60)
"""
HOLDS = """
import sys, time
from bang.processes import hold_folder
release = hold_folder(sys.argv[1])
print("holds", flush=True)
sys.stdin.readline()
release()
print("released", flush=True)
sys.stdin.readline()
"""


def begin(script, *arguments):
    """A Python process, and what it prints first."""
    return lines([sys.executable, "-c", script, *arguments], cwd=ROOT)


@pytest.mark.parametrize("system", ["linux", "elsewhere"])
@pytest.mark.parametrize("script", [STARTS, FORKS])
def test_a_child_ends_with_its_parent(script, system):
    with begin(script, system) as (process, line):
        child = int(line)
        assert not ended(child, within=0)
        process.kill()
        assert ended(child, within=5)


@pytest.mark.parametrize("system", ["linux", "elsewhere"])
def test_nothing_stays_of_a_child_that_ended_by_itself(system):
    with begin(STARTS, system, "ends") as (process, _):
        assert process.wait(5) == 0


def test_a_folder_is_one_processes_at_a_time(tmp_path):
    with begin(HOLDS, tmp_path) as (process, _):
        for _ in range(2):
            with pytest.raises(UserError) as refusal:
                processes.hold_folder(tmp_path)
            said = str(refusal.value)
            assert said.startswith(f"{tmp_path}: process {process.pid} on ") and "\n" not in said
            assert f"{tmp_path}) works there: wait for it, end it, or give another folder" in said
        process.stdin.write("\n")
        assert process.stdout.readline() == "released\n" and not list(tmp_path.iterdir())
        processes.hold_folder(tmp_path)()


def test_a_folder_of_a_dead_process_is_free(tmp_path):
    with begin(HOLDS, tmp_path) as (process, _):
        process.kill()
        process.wait()
        assert [path.name for path in tmp_path.iterdir()] == [processes.LOCK]
        release = processes.hold_folder(tmp_path)
        assert f"process {os.getpid()} on " in (tmp_path / processes.LOCK).read_text()
        processes.hold_folder(tmp_path)()  # this process has it already, and keeps it
        with begin(HOLDS, tmp_path) as (other, line):
            assert line == "" and other.wait(5) == 1
        release()
        assert not list(tmp_path.iterdir())


def test_what_a_worker_was_forked_with_holds_no_folder(tmp_path):
    """A worker that reads data outlives a training that is killed by some seconds."""
    script = HOLDS.replace('print("holds"', 'import os\nif not os.fork():\n    time.sleep(60)\nprint("holds"')
    with begin(script, tmp_path) as (process, _):
        worker = int(subprocess.run(["pgrep", "-P", str(process.pid)], capture_output=True, text=True, check=True).stdout)
        process.kill()
        process.wait()
        try:
            processes.hold_folder(tmp_path)()
        finally:
            os.kill(worker, signal.SIGKILL)


def test_where_files_cannot_be_locked_nothing_is_held(tmp_path, monkeypatch):
    processes.hold_folder(tmp_path / "gone")()
    monkeypatch.setattr(processes, "try_lock", lambda *_, **__: None)
    processes.hold_folder(tmp_path)()


def test_signals_end_in_an_orderly_way_and_asked_again_at_once():
    """One Ctrl-C may come as two signals; who asks later, means it."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # as under nohup
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    try:
        with pytest.raises(SystemExit) as end, processes.orderly_end():
            signal.raise_signal(signal.SIGINT)
            try:
                signal.raise_signal(signal.SIGTERM)
            finally:
                signal.raise_signal(signal.SIGTERM)
        assert end.value.code == 143
        assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL and signal.getsignal(signal.SIGINT) == signal.SIG_IGN
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    twice = """
import signal, sys, time
from bang import processes
processes.AGAIN = 0
with processes.orderly_end():
    try:
        signal.raise_signal(signal.SIGTERM)
    finally:
        time.sleep(0.01)
        signal.raise_signal(signal.SIGTERM)
        print("goes on")
"""
    assert subprocess.run([sys.executable, "-c", twice], cwd=ROOT, stdout=subprocess.PIPE).returncode == -signal.SIGTERM


def test_an_error_ends_the_program_that_was_started():
    with pytest.raises(KeyError), processes.started(["sleep", "60"]) as process:
        raise KeyError
    assert processes.exit_status(process) == 143
