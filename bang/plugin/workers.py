"""Processes that train together: one that dies or stops ends the others in bounded time, and they say which one it was."""

import os
import re
import socket
import time
from datetime import timedelta
from pathlib import Path

import torch.distributed
from omegaconf import DictConfig
from torch.distributed import distributed_c10d
from torch.multiprocessing.spawn import ProcessExitedException

_LOST = re.compile(r"gloo|nccl|connection (closed|reset|refused)|socket|timed out", flags=re.I)
"""How gloo, NCCL and torch's store say that another process does not answer."""

DYING = 5.0
"""Seconds in which a killed process may still be ending."""

_workers: list[tuple[str, int]] = []  # machine and process number of each, by rank


def meet(options: DictConfig) -> None:
    """Has the workers of a run know each other. --heartbeat-timeout is how many seconds one waits for another.

    fairseq's own use of that option sends a signal that a process which waits for another never gets to see.

    Args:
        options: `distributed_training` of the run.
    """
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return
    if options.heartbeat_timeout > 0:  # before fairseq's trainer makes the group that its workers talk in
        limit = timedelta(seconds=options.heartbeat_timeout)
        distributed_c10d.default_pg_timeout = distributed_c10d.default_pg_nccl_timeout = limit
        options.heartbeat_timeout = -1
    found: list = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(found, (socket.gethostname(), os.getpid()))
    _workers[:] = found


def describe_loss(error: BaseException) -> str | None:
    """One line for an error that another worker's end or stop brought about; None for any other error."""
    if isinstance(error, ProcessExitedException):  # in the process that spawned the workers
        why = f"signal {error.signal_name}" if error.signal_name else f"status {error.exit_code}"
        return f"worker {error.error_index} (process {error.error_pid}) ended with {why}; {_AGAIN}"
    if not (_workers and isinstance(error, RuntimeError) and _LOST.search(str(error))):
        return None
    here, end = socket.gethostname(), time.monotonic() + DYING
    while True:  # a process that is killed closes its connections before it is dead
        states = {
            rank: _state(process)
            for rank, (machine, process) in enumerate(_workers)
            if machine == here and process != os.getpid()
        }
        for what, kind in (("died", "dead"), ("is stopped", "stopped")):
            lost = [f"worker {rank} (process {_workers[rank][1]})" for rank, state in states.items() if state == kind]
            if lost:
                return f"{' and '.join(lost)} {what}; {_AGAIN}"
        if time.monotonic() > end:
            break
        time.sleep(0.1)
    others = sorted({machine for machine, _ in _workers} - {here})
    where = f"on {' or '.join(others)} " if others else ""
    return f"another worker {where}died or does not answer ({str(error).splitlines()[0][:200]}); {_AGAIN}"


_AGAIN = "this one ends too; given again, the same commands go on from the last checkpoint"


def _state(process: int) -> str:
    """Whether a process of this machine is "dead", "stopped", or "alive"."""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return "dead"
    except PermissionError:
        return "alive"
    try:
        letter = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:  # not Linux, or it ended just now
        return "alive"
    return {"Z": "dead", "X": "dead", "T": "stopped", "t": "stopped"}.get(letter, "alive")
