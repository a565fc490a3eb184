"""Progress and remaining time of fairseq-train, and its orderly stop.

fairseq logs every N updates, which on a CPU may be minutes. Here it is the clock that decides. A single process that is
asked to stop (Ctrl-C, SIGTERM) ends its update and saves, so no work is lost however long an epoch is. Of many processes
the signal reaches each in another update, so these are ended at once, as fairseq does.
"""

import logging
import math
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

from omegaconf import DictConfig

logger = logging.getLogger(__name__)

EVERY = 30.0
"""Seconds between two lines."""
FIRST = 3
"""Updates and seconds that are timed before the first line. The very first update, which sets up memory, is not timed."""
AGAIN = 2.0
"""Seconds after which a further signal ends the run at once: one Ctrl-C may come as two signals."""


class Progress:
    """Decides when to log progress, and what.

    Args:
        updates: of the whole run; None: unknown.
        may_stop: whether `Stop` is installed; the first line says so.
        clock: seconds.
    """

    def __init__(self, updates: int | None, may_stop: bool = True, clock: Callable[[], float] = time.monotonic):
        self.updates, self.may_stop, self.clock = updates, may_stop, clock
        self.began: tuple[int, float] | None = None  # update and time of the first call
        self.last_logged: float | None = None

    def log(self, done: int) -> None:
        """Logs the progress after `done` updates, if it is time."""
        line = self.line(done)
        if line is not None:
            logger.info("%s", line)

    def line(self, done: int) -> str | None:
        """The line to log after `done` updates; None: not yet."""
        now = self.clock()
        if self.began is None:
            self.began = done, now
        timed, seconds = done - self.began[0], now - self.began[1]
        early = seconds < EVERY and (timed < FIRST or seconds < FIRST)
        if timed == 0 or (early if self.last_logged is None else now - self.last_logged < EVERY):
            return None
        first, self.last_logged = self.last_logged is None, now
        if self.updates is None:
            return f"update {done:,}"
        left = duration((self.updates - done) * seconds / timed)
        hint = "; stop any time, the same command goes on" if first and self.may_stop else ""
        return f"update {done:,} of {self.updates:,}, about {left} left{hint}"


def duration(seconds: float) -> str:
    """For people, in two digits or so: "40 s", "25 min", "3 h 20 min", "2 days 5 h"."""
    if seconds < 100:
        return f"{math.ceil(seconds)} s"
    minutes = math.ceil(seconds / 60)
    if minutes < 100:
        return f"{minutes} min"
    if minutes < 48 * 60:
        return f"{minutes // 60} h {minutes % 60} min"
    return f"{minutes // 1440} days {minutes % 1440 // 60} h"


class Stop:
    """Lets a signal end a run after its update, with a checkpoint.

    fairseq reads its options again after each update: one of them stops a run that has trained long enough, and saves.

    Args:
        run: the options of the run.
    """

    def __init__(self, run: DictConfig):
        self.run, self.process = run, os.getpid()
        self.asked: tuple[int, float] | None = None  # signal and time
        self.under_way = False

    @staticmethod
    def fits(run: DictConfig) -> bool:
        """Whether the run can be stopped so: by itself, and with checkpoints that are there once they are saved."""
        save = run.checkpoint
        lost = save.no_save or save.no_last_checkpoints or save.write_checkpoints_asynchronously
        return run.distributed_training.distributed_world_size == 1 and not lost

    def install(self) -> None:
        for number in (signal.SIGINT, signal.SIGTERM):
            if signal.getsignal(number) in (
                signal.SIG_DFL,
                signal.default_int_handler,
            ):  # not where it is ignored, as under nohup
                signal.signal(number, self._ask)

    def _ask(self, number: int, frame) -> None:
        if os.getpid() != self.process:  # a worker that reads data: it ends with the run
            if number == signal.SIGTERM:
                os._exit(128 + number)
        elif self.asked is None:
            self.asked = number, time.monotonic()
        elif time.monotonic() - self.asked[1] > AGAIN:
            sys.exit(128 + number)

    def end_update(self) -> None:
        """After each update: has fairseq save and stop, without validation, which may take long."""
        if self.asked is not None and not self.under_way:
            self.under_way = True
            logger.info("asked to stop: saving; ask again to end without")
            self.run.dataset.disable_validation, self.run.optimization.stop_time_hours = True, 1e-9

    def end_save(self, path: str, done: int) -> None:
        """After each checkpoint: ends the process where that was asked for."""
        if self.asked is not None:
            last = Path(path).with_name("checkpoint_last.pt")  # `path` is the first of some copies
            logger.info("stopped at update %s, saved in %s; the same command goes on", f"{done:,}", last)
            sys.exit(128 + self.asked[0])
