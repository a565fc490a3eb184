"""Several processes that generate: in order, as one does; a killed one is reported and replaced."""

import itertools
import multiprocessing
import os
import signal
import time

import pytest
from conftest import TEXTS

from bang.errors import UserError
from bang.inference import workers

OPTIONS = {"mode": "nar", "max_len": 12}


@pytest.fixture
def generate(exported):
    def call(texts, count=2, options=OPTIONS, **more):
        return workers.generate(texts, {"model": exported, "threads": 1}, options, count, **more)

    return call


@pytest.fixture
def deaths(monkeypatch):
    """Kills workers as chunks are handed to them: deaths(chunk, process)."""

    def when(dies):
        take = workers._Worker.take

        def and_die(worker, chunk):
            if dies(chunk, worker):
                os.kill(worker.process.pid, signal.SIGKILL)
            take(worker, chunk)

        monkeypatch.setattr(workers._Worker, "take", and_die)

    return when


def test_several_processes_give_what_one_gives(generate, runtime, deaths, caplog):
    """In order, although a worker dies of its first texts; those that cannot be served say why, by their numbers."""
    texts = [f"{text} {number}" for number, text in zip(range(90), itertools.cycle(TEXTS))]
    texts[70], texts[1] = "tool " * 600, ""
    killed = []
    deaths(lambda chunk, worker: chunk.first == 117 and not killed and not killed.append(worker.process.pid))
    found = list(generate(iter(texts), first=101, details=True))
    assert found == runtime.generate(texts, details=True, on_error="blank", first=101, **OPTIONS)
    assert found[70].error.startswith("text 171 has over 511 word pieces")
    (said,) = caplog.messages
    assert f"process {killed[0]}, was killed (SIGKILL; for lack of memory, maybe): texts 117 to 148 are generated again" in said


def test_texts_that_kill_every_worker_end_it(generate, deaths, caplog):
    """Behind the answers to those before."""
    deaths(lambda chunk, worker: chunk.first == 17)
    found = generate(f"tool {number}" for number in range(40))
    assert len(list(itertools.islice(found, 16))) == 16
    with pytest.raises(ChildProcessError, match="was killed .* and so did those before it: try fewer --workers"):
        next(found)
    assert len(caplog.messages) == 2


def test_mistakes_come_through(generate, tmp_path):
    with pytest.raises(UserError, match="^mode 'art': this model has "):
        list(generate(["a"], options={"mode": "art"}))
    with pytest.raises(FileNotFoundError, match="no such model"):
        list(workers.generate(["a"], {"model": tmp_path / "none"}, {}, 2))


def test_an_input_that_breaks_is_answered_up_to_there(generate, runtime):
    def texts():
        yield from TEXTS[:3]
        raise UserError("no more")

    found, expected = generate(texts(), 1), runtime.generate(TEXTS[:3], **OPTIONS)
    assert [next(found).text for _ in range(3)] == expected
    with pytest.raises(UserError, match="^no more$"):
        next(found)


def test_it_reads_a_few_texts_ahead_alone_and_leaves_no_process(generate):
    read, before = [], set(multiprocessing.active_children())  # of other tests
    found = generate((read.append(n) or f"tool {n}" for n in itertools.count()), 1)
    for _ in range(100):
        next(found)
    assert len(read) < 100 + workers._AHEAD * workers.CHUNK
    assert len(set(multiprocessing.active_children()) - before) == 1
    found.close()
    time.sleep(0)
    assert set(multiprocessing.active_children()) <= before
