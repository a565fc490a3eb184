"""What a training tells by the clock, and what is left of one that is stopped."""

import os
import signal

import pytest
import torch

from bang.plugin import base_task, progress
from bang.plugin.progress import Progress, duration


def lines(seconds, updates, **options):
    """{second: line} of a run whose updates take so many seconds each, by their turn."""
    now = [0.0]
    told, told_by = {}, Progress(updates, clock=lambda: now[0], **options)
    for done in range(updates or 400):
        now[0] += seconds(done)
        line = told_by.line(done)
        if line is not None:
            told[round(now[0])] = line
    return told


def test_a_line_comes_soon_and_then_every_half_minute():
    told = lines(lambda done: 9.0 if done == 0 else 0.5, 241)  # the first update sets things up
    assert told[12] == "update 6 of 241, about 2 min left; stop any time, the same command goes on"
    assert list(told) == [12, 42, 72, 102] and told[102] == "update 186 of 241, about 28 s left"


def test_slow_updates_are_told_as_they_come():
    told = lines(lambda done: 40.0, 300)
    assert list(told)[:3] == [80, 120, 160] and told[80].startswith("update 1 of 300, about 3 h 20 min left; stop any time")
    assert "stop" not in lines(lambda done: 40.0, 300, may_stop=False)[80]
    assert lines(lambda done: 1.0, None)[34] == "update 33"


@pytest.mark.parametrize(
    "seconds, text",
    [
        (0.2, "1 s"),
        (99, "99 s"),
        (101, "2 min"),
        (5900, "99 min"),
        (6001, "1 h 41 min"),
        (172_000, "47 h 47 min"),
        (190_000, "2 days 4 h"),
    ],
)
def test_durations(seconds, text):
    assert duration(seconds) == text


@pytest.fixture
def stopped(train_here, monkeypatch, caplog):
    """Trains as the command fairseq-train does, gets the signals after an update; the status and the checkpoint's folder."""
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell in the background has it ignored
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # the command bang, run in this process before, has its own
    caplog.set_level("INFO", "bang.plugin.progress")
    monkeypatch.setattr(base_task, "program", lambda: "fairseq-train")

    def call(after, *signals, options=()):
        tell = Progress.log

        def told(self, done):
            if done == after:
                for number in signals:
                    os.kill(os.getpid(), number)
            tell(self, done)

        monkeypatch.setattr(Progress, "log", told)
        try:
            with pytest.raises(SystemExit) as stop:
                train_here("--max-epoch", "9", *options, validate=True)
        finally:
            monkeypatch.setattr(Progress, "log", tell)
            for number, handler in handlers.items():
                signal.signal(number, handler)
        return stop.value.code

    yield call
    for number, handler in handlers.items():
        signal.signal(number, handler)


def test_a_run_that_is_stopped_in_its_last_update_is_finished(stopped, tmp_path):
    """With its validation, which nothing would make up for."""
    assert stopped(2, signal.SIGINT, options=["--max-update", "3"]) == 130
    assert {path.name for path in (tmp_path / "checkpoints").glob("checkpoint_[bl]*.pt")} == {
        "checkpoint_best.pt",
        "checkpoint_last.pt",
    }


@pytest.mark.parametrize("after, signals", [(4, [signal.SIGINT, signal.SIGTERM]), (5, [signal.SIGTERM])])
def test_a_run_that_is_stopped_saves_and_goes_on(after, signals, stopped, train_here, caplog, tmp_path):
    """Amid an epoch and in its last update; Ctrl-C that a recipe passes on comes twice."""
    assert stopped(after, *signals) == 128 + signals[0]
    path = tmp_path / "checkpoints" / "checkpoint_last.pt"
    state = torch.load(path)
    assert state["optimizer_history"][-1]["num_updates"] == after + 1
    assert f"stopped at update {after + 1}, saved in {path}; the same command goes on" in caplog.messages
    whole = torch.load(train_here("--max-epoch", "3") / "checkpoint_last.pt")
    assert whole["optimizer_history"][-1]["num_updates"] == 9 and whole["extra_state"]["train_iterator"]["epoch"] == 4


def test_asked_again_it_ends_without_a_checkpoint(stopped, monkeypatch, tmp_path):
    monkeypatch.setattr(progress, "AGAIN", 0.0)
    assert stopped(1, signal.SIGINT, signal.SIGINT) == 130
    assert not list(tmp_path.rglob("checkpoint_last.pt"))


@pytest.mark.parametrize("options", [["--no-save"], ["--no-last-checkpoints"]])
def test_where_nothing_would_be_saved_signals_are_left_alone(options, stopped, train_here, monkeypatch):
    monkeypatch.setattr(base_task, "program", lambda: "fairseq-train")
    train_here("--max-update", "1", *options)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    monkeypatch.setattr(base_task, "program", lambda: "pytest")  # nor in a program of somebody's own
    train_here("--max-update", "1")
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
