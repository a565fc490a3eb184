"""Decodes the calls of several threads in shared batches."""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..inference.engine import BATCH_TOKENS, Engine, Hypothesis, batches
from ..options import Options

logger = logging.getLogger(__name__)

Observer = Callable[[list[np.ndarray], list[Hypothesis]], None]
"""Called after each batch with its sources and their hypotheses."""


@dataclass(eq=False)
class _Call:
    sources: list[np.ndarray]
    options: Options
    prefixes: Sequence[np.ndarray] | None = None
    future: Future = field(default_factory=Future)
    arrived: float = field(default_factory=time.monotonic)

    def goes_with(self, other: "_Call") -> bool:
        """Whether both can be decoded in one batch."""
        return self.options == other.options and (self.prefixes is None) == (other.prefixes is None)


class BatchingEngine:
    """An engine that decodes calls with equal options together; see `inference.engine.Engine`.

    A source's output does not depend on its batch, so each call gets what it would get alone. A thread of this object
    serves the calls in order.

    Args:
        engine: runs the network.
        rows: largest number of sources in a batch.
        wait: most seconds that a call waits for others; time while the engine is busy counts.
        observe: called after every batch.
    """

    def __init__(self, engine: Engine, rows: int, wait: float, observe: Observer = lambda sources, found: None):
        self._engine, self._rows, self._wait, self._observe = engine, rows, wait, observe
        self._calls: deque[_Call] = deque()
        self._changed = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._serve, name="bang batches", daemon=True)
        self._thread.start()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)

    @property
    def is_alive(self) -> bool:
        """Whether calls are answered."""
        return self._thread.is_alive()

    def generate(
        self, sources: list[np.ndarray], options: Options, prefixes: Sequence[np.ndarray] | None = None
    ) -> list[Hypothesis]:
        """See `inference.engine.Engine`."""
        call = _Call(sources, options, prefixes)
        with self._changed:
            if self._closed:
                raise RuntimeError("the engine is closed")
            self._calls.append(call)
            self._changed.notify()
        return call.future.result()

    def close(self) -> None:
        """Ends the thread. Waiting calls fail with a RuntimeError."""
        with self._changed:
            self._closed = True
            for call in self._calls:
                call.future.set_exception(RuntimeError("the engine is closed"))
            self._calls.clear()
            self._changed.notify()

    def _serve(self) -> None:
        while calls := self._take():
            try:
                self._decode(calls)
            except BaseException as error:  # keep the thread alive: other calls are waiting
                if len(calls) > 1:
                    logger.warning("a batch of %d calls failed (%s); each is decoded alone", len(calls), type(error).__name__)
                    self._decode_each(calls)
                else:
                    calls[0].future.set_exception(error)

    def _decode_each(self, calls: list[_Call]) -> None:
        """Decodes one call at a time, so that only the faulty ones fail."""
        for call in calls:
            try:
                self._decode([call])
            except BaseException as error:
                call.future.set_exception(error)

    def _take(self) -> list[_Call]:
        """Waits for a call, and briefly for more. Returns those with the options of the first; none if closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._calls or self._closed)
            if self._closed:
                return []
            first = self._calls[0]
            self._changed.wait_for(
                lambda: self._closed or self._waiting_rows(first) >= self._rows,
                timeout=max(0.0, first.arrived + self._wait - time.monotonic()),
            )
            taken: list[_Call] = []
            rows = 0
            for call in self._calls:
                if call.goes_with(first) and (not taken or rows + len(call.sources) <= self._rows):
                    taken.append(call)
                    rows += len(call.sources)
            self._calls = deque(call for call in self._calls if call not in taken)
            return taken

    def _waiting_rows(self, first: _Call) -> int:
        return sum(len(call.sources) for call in self._calls if call.goes_with(first))

    def _decode(self, calls: list[_Call]) -> None:
        sources = [ids for call in calls for ids in call.sources]
        prefixes = [ids for call in calls for ids in call.prefixes or ()]
        found: list[Any] = [None] * len(sources)
        for batch in batches([len(ids) for ids in sources], BATCH_TOKENS):
            of_batch = [sources[index] for index in batch]
            given = [[prefixes[index] for index in batch]] if prefixes else []
            hypotheses = self._engine.generate(of_batch, calls[0].options, *given)
            self._observe(of_batch, hypotheses)
            for index, hypothesis in zip(batch, hypotheses, strict=True):
                found[index] = hypothesis
        start = 0
        for call in calls:
            call.future.set_result(found[start : start + len(call.sources)])
            start += len(call.sources)
