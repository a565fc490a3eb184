"""examples/ray_bulk.py on a real local Ray: two workers, of which one is killed midway."""

import glob
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import ROOT

ROWS = 24_000


def at_work():
    """Process ids of Ray's workers that generate."""
    found = []
    for path in glob.glob("/proc/[0-9]*/cmdline"):
        try:
            name = Path(path).read_bytes()
        except OSError:
            continue
        if name.startswith(b"ray::MapWorker(MapBatches(Writer)).submit"):
            found.append(int(path.split("/")[2]))
    return found


@pytest.mark.slow
def test_a_killed_worker_loses_no_row_and_doubles_none(exported, runtime, tmp_path):
    pytest.importorskip("ray")
    arrow = pytest.importorskip("pyarrow")
    import pyarrow.parquet as parquet

    ids = list(range(ROWS))
    table = {"id": ids, "text": [f"tool {number}" for number in ids], "more": [str(number) for number in ids]}
    parquet.write_table(arrow.table(table), tmp_path / "in.parquet")
    command = [sys.executable, "examples/ray_bulk.py", exported, tmp_path / "in.parquet", tmp_path / "out", "2"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "RAY_ADDRESS": "local", "OMP_NUM_THREADS": "1"}
    environment["RAY_raylet_start_wait_time_s"] = "240"  # on a busy machine
    with open(tmp_path / "log", "w") as log:
        ray = subprocess.Popen(list(map(str, command)), cwd=ROOT, env=environment, stdout=log, stderr=log)
    try:
        while len(workers := at_work()) < 2:
            assert ray.poll() is None, (tmp_path / "log").read_text()[-3000:]
            time.sleep(0.2)
        os.kill(workers[0], signal.SIGKILL)
        assert ray.wait(timeout=400) == 0, (tmp_path / "log").read_text()[-3000:]
    finally:
        ray.terminate()
        ray.wait()
    found = parquet.read_table(tmp_path / "out").sort_by("id").to_pydict()
    assert {name: found[name] for name in table} == table
    some = slice(None, None, ROWS // 40)
    assert found["generated"][some] == runtime.generate(table["text"][some], "nar")
