"""The most memory that processes hold. `getrusage` and `wait4` would count what the process that started them held, too."""

import contextlib
import ctypes
import re
import subprocess
import time
from pathlib import Path


def most(pid: int | str = "self") -> float:
    """MiB that a process has held at most; of this one since `forget`.

    Raises:
        OSError: it is gone.
    """
    found = re.search(r"^VmHWM:\s+(\d+) kB$", Path(f"/proc/{pid}/status").read_text(), flags=re.M)
    if found is None:
        raise ProcessLookupError(f"process {pid} has ended")
    return int(found[1]) / 1024


def forget() -> None:
    """Lets `most` of this process begin with what it holds now: an earlier peak would hide a later one."""
    Path("/proc/self/clear_refs").write_text("5")


def taken() -> float:
    """MiB that libraries of this process have taken from glibc and not given back to it; small objects of Python's not."""

    class Mallinfo2(ctypes.Structure):
        _fields_ = [(name, ctypes.c_size_t) for name in (
            "arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks", "uordblks", "fordblks", "keepcost",
        )]  # fmt: skip

    call = ctypes.CDLL(None).mallinfo2
    call.restype = Mallinfo2
    found = call()
    return (found.uordblks + found.hblkhd) / 2**20


def most_of_all(process: subprocess.Popen) -> float:
    """Waits for a process; the MiB that it and its children held at most, each at its own time, added up."""
    found: dict[int, float] = {}
    while process.poll() is None:
        for pid in (process.pid, *children(process)):
            with contextlib.suppress(OSError):
                found[pid] = most(pid)  # it only grows, but for a new process's, which begins as its parent's copy
        time.sleep(0.1)
    return sum(found.values())


def children(process: subprocess.Popen) -> list[int]:
    """The process ids of its children; none where it has ended."""
    try:
        return [int(pid) for pid in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()]
    except OSError:
        return []
