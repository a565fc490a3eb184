"""Two processes that train together, one of which is killed or stopped: the other ends in bounded time and says which it was."""

import os
import re
import signal
import socket
import subprocess
import sys
import time

import pytest
from conftest import ROOT, TINY, TRAINING

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(
    "number, victim, said",
    [
        (signal.SIGKILL, 1, "died"),
        (signal.SIGKILL, 0, "died"),
        (signal.SIGTERM, 1, "died"),
        (signal.SIGSTOP, 1, "is stopped"),
    ],
)
def test_the_other_worker_ends_with_one_line(number, victim, said, data_bin, tmp_path):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"tcp://127.0.0.1:{probe.getsockname()[1]}"
    words = [sys.executable, "-m", "fairseq_cli.train", data_bin, "--user-dir", ROOT / "bang", *TRAINING, *TINY]
    words += ["--ddp-backend", "no_c10d", "--log-format", "json", "--log-interval", "1", "--max-epoch", "500", "--no-save"]
    words += ["--distributed-world-size", "2", "--distributed-no-spawn", "--distributed-backend", "gloo"]
    words += ["--distributed-init-method", address, "--heartbeat-timeout", "10", "--disable-validation"]
    logs = [tmp_path / f"{rank}.log" for rank in range(2)]
    processes = []
    for rank, log in enumerate(logs):
        with open(log, "wb") as file:
            processes.append(subprocess.Popen(
                [*map(str, words), "--distributed-rank", str(rank)], stdout=file, stderr=file,
                env={**os.environ, "OMP_NUM_THREADS": "1"},
            ))  # fmt: skip
    try:
        start = time.monotonic()
        while logs[0].read_text().count("train_inner") < 5 and all(process.poll() is None for process in processes):
            assert time.monotonic() < start + 300
            time.sleep(0.1)
        processes[victim].send_signal(number)
        start, other = time.monotonic(), processes[1 - victim]
        assert other.wait(120) == 1
        print(f"{number.name} of worker {victim}: the other ended after {time.monotonic() - start:.1f} s")
    finally:
        for process in processes:
            process.kill()
            process.wait()
    lines = logs[1 - victim].read_text().strip().splitlines()
    assert "Traceback" not in "\n".join(lines)
    expected = (
        rf"fairseq-train: error: worker {victim} \(process {processes[victim].pid}\) {said}; this one ends too; given again,"
    )
    assert re.search(expected, lines[-1]), lines[-1]
