"""What the service counts, for Prometheus."""

import numpy as np
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

from ..inference.engine import Hypothesis

CONTENT_TYPE = CONTENT_TYPE_LATEST

_SECONDS = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30)
_ROWS = (1, 2, 4, 8, 16, 32, 64, 128)


class Metrics:
    """Counters of one service, and of its process: memory, CPU time, open files."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        ProcessCollector(registry=self._registry)
        registry = self._registry
        self.requests = Counter("bang_requests", "Answers to POST /generate by HTTP status.", ["status"], registry=registry)
        self.seconds = Histogram(
            "bang_request_seconds", "Seconds from a request's headers to its answer.", buckets=_SECONDS, registry=registry
        )
        self.active = Gauge("bang_active_requests", "Requests being read, waiting or decoded.", registry=registry)
        self._batches = Histogram("bang_batch_texts", "Texts that were decoded together.", buckets=_ROWS, registry=registry)
        self._tokens = Counter("bang_tokens", "Word pieces, read from sources and generated.", ["kind"], registry=registry)

    def observe_batch(self, sources: list[np.ndarray], found: list[Hypothesis]) -> None:
        """Counts a decoded batch."""
        self._batches.observe(len(sources))
        self._tokens.labels("source").inc(sum(map(len, sources)) - len(sources))  # without the eos
        self._tokens.labels("generated").inc(sum(len(hypothesis.tokens) for hypothesis in found))

    def exposition(self) -> bytes:
        """Prometheus' text format."""
        return generate_latest(self._registry)
