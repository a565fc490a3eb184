"""Calls of several threads, decoded together."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from bang.inference.engine import Hypothesis
from bang.options import Options
from bang.serving.batching import BatchingEngine

NAR, AR = Options(mode="nar"), Options(mode="ar")


class Doubles:
    """An engine whose output is its source twice; it refuses a source with 13, and waits for `go`."""

    modes = ("ar", "nar")

    def __init__(self):
        self.go = threading.Event()
        self.go.set()
        self.seen = []

    def generate(self, sources, options, prefixes=None):
        self.go.wait()
        self.seen.append((options.mode, len(sources)))
        if prefixes is not None:
            return [Hypothesis([*prefix, *ids], 0.0, [], []) for prefix, ids in zip(prefixes, sources, strict=True)]
        if any(13 in ids for ids in sources):
            raise MemoryError("13")
        return [Hypothesis([*ids, *ids], 0.0, [], []) for ids in sources]


@pytest.fixture
def engine():
    return Doubles()


@pytest.fixture
def batching(engine):
    made = []

    def make(rows=8, wait=0.0, **options):
        made.append(BatchingEngine(engine, rows, wait, **options))
        return made[-1]

    yield make
    engine.go.set()
    for one in made:
        one.close()


def ids(*numbers):
    return np.array([*numbers, 1])


def start(batching, pool, calls):
    """Each call in a thread of its own, in this order, all of them waiting behind the first."""
    futures = []
    for number, (sources, options) in enumerate(calls):
        futures.append(pool.submit(batching.generate, sources, options))
        while len(batching._calls) < number:  # the first is taken at once
            time.sleep(0.001)
        if number == 0:
            time.sleep(0.05)
    return futures


def test_each_gets_its_own(engine, batching):
    together = batching()
    engine.go.clear()
    calls = [([ids(5)], NAR), ([ids(6), ids(7, 7)], NAR), ([ids(8)], AR), ([ids(9)], Options(mode="nar", eos_penalty=1.0)),
             ([ids(10)] * 5, NAR), ([ids(11)] * 2, NAR)]  # fmt: skip
    with ThreadPoolExecutor(8) as pool:
        futures = start(together, pool, calls)
        engine.go.set()
        for (sources, _), future in zip(calls, futures, strict=True):
            assert [found.tokens for found in future.result()] == [[*source, *source] for source in sources]
    # 2 + 5 rows fit, the 2 behind them do not; other options go alone; in the order of the first of each
    assert engine.seen == [("nar", 1), ("nar", 7), ("ar", 1), ("nar", 1), ("nar", 2)]


def test_beginnings_stay_with_their_sources(engine, batching):
    together = batching()
    engine.go.clear()
    with ThreadPoolExecutor(8) as pool:
        futures = [pool.submit(together.generate, [ids(3)], AR)]
        time.sleep(0.05)
        futures.append(pool.submit(together.generate, [ids(3)], AR))
        futures += [pool.submit(together.generate, [ids(*[n] * n)], AR, [np.array([n] * 20)]) for n in (5, 6, 7)]
        while len(together._calls) < 4:
            time.sleep(0.001)
        engine.go.set()
        found = [future.result()[0].tokens for future in futures]
    assert found[1] == [3, 1, 3, 1] and found[2:] == [[n] * 20 + [n] * n + [1] for n in (5, 6, 7)]
    assert sorted(engine.seen) == [("ar", 1), ("ar", 1), ("ar", 3)]


def test_one_that_fails_fails_alone(engine, batching, caplog):
    together = batching()
    engine.go.clear()
    with ThreadPoolExecutor(8) as pool:
        futures = start(together, pool, [([ids(5)], NAR), ([ids(6)], NAR), ([ids(13)], NAR), ([ids(7)], NAR)])
        engine.go.set()
        assert [futures[index].result()[0].tokens[0] for index in (0, 1, 3)] == [5, 6, 7]
        with pytest.raises(MemoryError, match="13"):
            futures[2].result()
    assert "a batch of 3 calls failed (MemoryError)" in caplog.text
    assert together.is_alive and together.generate([ids(3)], AR)[0].tokens[0] == 3


def test_a_call_waits_for_others_but_not_for_ever(engine, batching):
    together = batching(rows=2, wait=0.3)
    with ThreadPoolExecutor(2) as pool:
        begin = time.monotonic()
        list(pool.map(lambda number: together.generate([ids(number)], NAR), (5, 6)))
        assert time.monotonic() - begin < 0.25  # the batch is full
    begin = time.monotonic()
    together.generate([ids(5)], NAR)
    assert time.monotonic() - begin >= 0.3
    assert engine.seen == [("nar", 2), ("nar", 1)]


def test_an_idle_engine_sleeps(batching):
    together = batching()
    together.generate([ids(5)], NAR)
    before = time.process_time()
    time.sleep(0.3)
    assert time.process_time() - before < 0.1


def test_every_batch_is_observed(batching):
    seen = []
    batching(observe=lambda sources, found: seen.append((len(sources), len(found[0].tokens)))).generate([ids(5, 6)], NAR)
    assert seen == [(1, 6)]


def test_closed(engine, batching):
    together = batching()
    engine.go.clear()
    with ThreadPoolExecutor(2) as pool:
        running, waiting = start(together, pool, [([ids(5)], NAR), ([ids(6)], NAR)])
        while not together._calls:
            time.sleep(0.001)
        together.close()
        with pytest.raises(RuntimeError, match="closed"):
            waiting.result()
        engine.go.set()
        assert running.result()[0].tokens[0] == 5
    with pytest.raises(RuntimeError, match="closed"):
        together.generate([ids(7)], NAR)
    together._thread.join(5)
    assert not together.is_alive
