"""Both runtimes under load: 8 threads, every mode, batches of any size, forks beside them. Each text must be what it is alone.

BANG_SOAK_MINUTES says how long, for each runtime (default half a minute); `-rP` prints the figures.
"""

import os
import random
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT
from support.kills import forked

from bang import Bang
from bang.deploy.export import export
from bang.inference.trained_model import read_model

pytestmark = pytest.mark.slow
SHIPPED = ROOT / "models" / "debian-synopsis" / "checkpoint.pt"
MINUTES = float(os.environ.get("BANG_SOAK_MINUTES", 0.5))
THREADS = 8
WAYS: list[dict] = [
    {"mode": "ar", "beam": 1},
    {"mode": "ar", "beam": 4},
    {"mode": "nar"},
    {"mode": "nar", "link": False},
    {"mode": "speculative"},
    {"mode": "semi-nar", "block_size": 4},
    {"mode": "semi-nar", "block_size": 2, "commit_threshold": 0.5, "link": False},
]
MOST_GROWTH = 0.5
"""MB a minute, after the first third; a soak of less than ten minutes is all warm-up and says nothing of it."""


def resident() -> float:
    """MB that this process holds."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


@pytest.fixture(scope="module", params=["torch", "onnxruntime"])
def shipped(request, tmp_path_factory):
    if request.param == "torch":
        return Bang.load(SHIPPED, device="cpu", threads=1)
    folder = tmp_path_factory.mktemp("soak") / "exported"
    export(read_model(SHIPPED), folder)
    return Bang.load(folder, threads=1)


def test_soak(shipped):
    lines = (ROOT / "examples" / "debian" / "test.src").read_text().splitlines()[:20]
    expected = [[shipped.generate(line, truncate=True, **way) for line in lines] for way in WAYS]
    end, lost, memory = time.monotonic() + 60 * MINUTES, [], []
    calls = [0] * THREADS

    def work(number):
        chosen = random.Random(number)
        while time.monotonic() < end:
            way = chosen.randrange(len(WAYS))
            batch = [chosen.randrange(len(lines)) for _ in range(chosen.choice([1, 1, 2, 5, 8]))]
            try:
                texts = shipped.generate([lines[index] for index in batch], truncate=True, **WAYS[way])
            except Exception as error:
                texts = repr(error)
            if texts != [expected[way][index] for index in batch]:
                lost.append((WAYS[way], batch, texts))
            calls[number] += 1

    threads = [threading.Thread(target=work, args=(number,)) for number in range(THREADS)]
    for thread in threads:
        thread.start()
    forks = []
    while time.monotonic() < end:
        forks.append(forked(lambda: shipped.generate(lines[:2], truncate=True, **WAYS[2]) == expected[2][:2]))
        for _ in range(6):
            time.sleep(max(0, min(10, MINUTES * 10, end - time.monotonic())))
            memory.append((time.monotonic() / 60, resident()))
    for thread in threads:
        thread.join()
    steady = memory[len(memory) // 3 :]
    growth = float(np.polyfit(*zip(*steady), 1)[0])
    print(
        f"{type(shipped.engine).__name__} {MINUTES:g} min: {sum(calls)} calls in {THREADS} threads, {len(lost)} not as alone,",
        f"{len(forks)} forks, {forks.count(True)} right; {memory[0][1]:.0f} MB at first, {steady[0][1]:.0f} after a third,",
        f"{memory[-1][1]:.0f} at the end, {growth:.2f} MB a minute",
    )
    assert lost == [] and min(calls) > 0
    assert forks == [True] * len(forks)
    assert MINUTES < 10 or growth < MOST_GROWTH, [round(megabytes) for _, megabytes in memory]
