"""A batch being decoded by the exported graphs: passes of the decoding loop, columns of keys and values.

Shapes: B rows, S source length, M new main tokens of a pass, N slots, Q = M + N queries, C columns of
the cache, P keys that are cached once the pass is over, V vocabulary, k candidates of a slot.
"""

from dataclasses import replace
from typing import NamedTuple

import numpy as np
from onnxruntime import InferenceSession, OrtValue
from onnxruntime.capi import onnxruntime_pybind11_state as states

from .. import visibility
from ..decoding.candidates import Slots
from ..decoding.choice import Bounds, Chooser
from ..decoding.passes import Pass
from ..decoding.session import BaseSession
from ..errors import UserError
from .engine import padded

_ROOM = 16  # columns that a full cache grows by; those without a key are hidden, so few of them cost little
_FAILURES = (states.Fail, states.InvalidArgument, states.RuntimeException, states.InvalidGraph, states.NotImplemented)
_NEVER = np.iinfo(np.int64).max  # the column of a key that no query sees


class Graphs(NamedTuple):
    """The exported network, as several threads and batches may share it.

    Attributes:
        folder: where it is from, for messages.
        encoder, decoder: see `deploy.graph`.
        pieces: entries of the vocabulary.
        table: bucket of each distance.
        positions: rows of the decoder's table of positions.
        specials: ids of pad, unk and eos.
        at_once: source tokens, padding included, that go through the encoder together.
        whole: whether the log-probabilities of the whole vocabulary are looked at here: on a CPU that
            is faster than the graph's choice of candidates, from a GPU they would have to be copied.
    """

    folder: str
    encoder: InferenceSession
    decoder: InferenceSession
    pieces: int
    table: np.ndarray
    positions: int
    specials: tuple[int, int, int]
    at_once: int
    whole: bool

    def run(self, session: InferenceSession, outputs: list[str], inputs: dict[str, OrtValue]) -> list[OrtValue]:
        """Runs one of the two.

        Raises:
            ValueError: it does not fit what its folder says of it, or memory lacks.
        """
        try:
            return session.run_with_ort_values(outputs, inputs)
        except _FAILURES as error:
            raise UserError(
                f"{self.folder}: its graphs cannot be run; damaged, of other sizes than its config.json says, or too little "
                f"memory ({str(error).splitlines()[0]:.200})"
            ) from error


class Candidates(NamedTuple):
    """The likeliest tokens of slots.

    Attributes:
        specials: log-probabilities of pad, unk and eos, float32, (B, N, 3).
        tokens: of the likeliest, these three maybe among them, int64, (B, N, k).
        log_probs: of these, float32, (B, N, k).
    """

    specials: np.ndarray
    tokens: np.ndarray
    log_probs: np.ndarray


class OfLogProbs(Chooser):
    """Chooses by log-probabilities, which need no normalising where no temperature divides them."""

    def _scores(self, xp, logits, scored):
        if self.temperature != 1:
            return super()._scores(xp, logits, scored)
        return logits[0], np.zeros(logits[0].shape[:-1], dtype=np.float32)


class OnnxSession(BaseSession):
    """Encodes a batch and runs passes over it; as `passes.Session`.

    Args:
        graphs: the network.
        sources: ids, eos last, each (S,).
        chooser: which token a slot gives, by log-probabilities.
        bounds: of the rows.
    """

    def __init__(self, graphs: Graphs, sources: list[np.ndarray], chooser: Chooser, bounds: Bounds):
        self._graphs, self.chooser, self.bounds = graphs, chooser, bounds
        # the same rules where the tokens are candidates, in the order of `columns`
        self._of_candidates = replace(chooser, pad=0, unk=1, eos=2)
        names, found = _encoded(graphs, sources)
        self._source = dict(zip(names, found))
        real = np.arange(max(map(len, sources))) < np.array([len(ids) for ids in sources])[:, None]
        self._source["source_real"] = OrtValue.ortvalue_from_numpy(real)
        self.source = np.full(real.shape, graphs.specials[0])
        self.source[real] = np.concatenate(sources)
        # as the graph orders them: key and value of layer 0, of layer 1 …
        self._cache_names = [name.replace("source", "cache") for name in names]
        self._new_names = [name.replace("source", "new") for name in names]
        of_source = found[0]
        rows, heads, _, head_width = of_source.shape()
        dtype = np.float16 if "float16" in of_source.data_type() else np.float32
        self._cache = [np.zeros((rows, heads, 0, head_width), dtype) for _ in names]  # (B, H, C, d) each
        # what the last pass is to put into it, as `_write` takes it
        self._new: tuple[np.ndarray, int, list[np.ndarray]] | None = None

    def forward(self, step: Pass) -> list[np.ndarray]:
        """Log-probabilities of the whole vocabulary, (B, N, V), or of candidates, as `Candidates`."""
        whole = self._graphs.whole or self.chooser.sampling
        whole = whole or step.forced is not None or step.banned is not None or bool(step.source_gain)
        return self._pass(step, ["log_probs"] if whole else ["specials", "tokens", "scores"])

    def choose(self, slots: list[np.ndarray], target: np.ndarray, forced, banned, ends: bool):
        """As `BaseSession.choose`, by what `forward` gave."""
        if len(slots) == 1:
            return self.chooser(np, slots, target, self.rules(ends), forced, banned)
        tokens, log_probs = columns(Candidates(*slots), self._graphs.specials)
        chosen, scores = self._of_candidates(np, [log_probs], target, self.rules(ends))
        return np.take_along_axis(tokens, chosen[..., None], axis=2)[..., 0], scores

    def likeliest(self, step: Pass, count: int) -> Slots:
        """As `passes.Session.likeliest`."""
        if self._graphs.whole:
            return super().likeliest(step, count)
        found = self.candidates(step, count)
        pad, _, eos = self._graphs.specials
        log_probs = np.where(np.isin(found.tokens, (pad, eos)), -np.inf, found.log_probs)
        order = np.argsort(-log_probs, axis=-1, kind="stable")[..., :count]
        tokens, log_probs = (np.take_along_axis(x, order, axis=-1) for x in (found.tokens, log_probs))
        return Slots(tokens, log_probs, found.specials[..., 2])

    def logits(self, slots: list[np.ndarray]) -> list[np.ndarray]:
        """Log-probabilities serve as logits."""
        return slots

    def candidates(self, step: Pass, count: int) -> Candidates:
        """Runs a pass; the `count` likeliest tokens of each slot beside pad, unk and eos."""
        return Candidates(*self._pass(step, ["specials", "tokens", "scores"], count))

    def _pass(self, step: Pass, outputs: list[str], count: int = 1) -> list[np.ndarray]:
        """Runs the decoder and keeps the keys and values of the queries that are to be cached."""
        self._write()
        token, position, last = step.queries()
        main, cached, first = step.main, step.cached, step.first
        columns = self._cache[0].shape[2] if first.any() else 0
        no_slot = np.full(cached, -1)
        block, index = visibility.places(step.block_sizes if main else ())
        key_position = visibility.main_position if main else visibility.slot_position
        # keys: columns of earlier passes, of which those that are written anew are never seen, then the queries
        column = np.broadcast_to(np.arange(columns), (len(first), columns))
        earlier = np.where(column < first[:, None], column, _NEVER)
        column = np.concatenate([column, first[:, None] + np.arange(cached)], axis=1)
        number = np.concatenate([earlier, column[:, columns:]], axis=1)
        sees, bucket = visibility.pass_visibility(
            np, self._graphs.table, cached, position, last, key_position(column), number,
            np.concatenate([no_slot, block]), np.concatenate([no_slot, index]),
        )  # fmt: skip
        position = np.minimum(position, self._graphs.positions - 1)  # slots behind the last target predict nothing
        count = min(count + len(self._graphs.specials), self._graphs.pieces) if "tokens" in outputs else 0  # 0: nothing to do
        feed = {
            "main_tokens": token[:, :main],
            "main_positions": position[:, :main],
            "slot_positions": position[:, main:],
            "sees": sees,
            "bucket": bucket,
            "count": np.array([count]),
        }
        feed.update(zip(self._cache_names, (buffer[:, :, :columns] for buffer in self._cache)))
        values = {name: OrtValue.ortvalue_from_numpy(np.ascontiguousarray(x)) for name, x in feed.items()}
        found = self._graphs.run(self._graphs.decoder, outputs + self._new_names, {**values, **self._source})
        self._new = first, cached, [x.numpy() for x in found[len(outputs) :]]
        return [x.numpy() for x in found[: len(outputs)]]

    def _write(self) -> None:
        """Puts the first `cached` of the last pass's keys and values into their rows' columns, from `first` on.

        Put off until a pass needs them: a text's last one, in NAR often the only one, needs none.
        """
        if self._new is None:
            return
        (first, cached, new), self._new = self._new, None
        have, needed = self._cache[0].shape[2], int(first.max()) + cached
        if needed > have:
            grown = -(-needed // _ROOM) * _ROOM - have
            self._cache = [np.pad(buffer, [(0, 0), (0, 0), (0, grown), (0, 0)]) for buffer in self._cache]
        alike = (first == first[0]).all()
        rows = np.arange(len(first))[:, None]
        for buffer, x in zip(self._cache, new):
            if alike:
                buffer[:, :, first[0] : first[0] + cached] = x[:, :, :cached]
            else:
                buffer[rows, :, first[:, None] + np.arange(cached)] = x[:, :, :cached].transpose(0, 2, 1, 3)

    def forget(self) -> None:
        """As `BaseSession.forget`."""
        self._cache, self._new = [buffer[:, :, :0] for buffer in self._cache], None

    def keep(self, rows: np.ndarray, sources: np.ndarray | None = None) -> None:
        """As `passes.Session.keep`.

        Args:
            sources: the same of the sources where they are other rows, as with beams; empty: they stay.
        """
        self._write()
        self.bounds = Bounds(*(x[rows] for x in self.bounds))
        self._cache = [buffer[rows] for buffer in self._cache]
        sources = rows if sources is None else sources
        if len(sources):
            self._source = {name: OrtValue.ortvalue_from_numpy(x.numpy()[sources]) for name, x in self._source.items()}
            self.source = self.source[sources]


def _encoded(graphs: Graphs, sources: list[np.ndarray]) -> tuple[list[str], list[OrtValue]]:
    """Keys and values of the cross-attention: names of the encoder's outputs, and these, each (B, H, S, d).

    Sources of like length go through the encoder together, as many as `at_once` allows: padding costs as
    much as tokens do.
    """
    names = [output.name for output in graphs.encoder.get_outputs()]
    lengths = np.array([len(ids) for ids in sources])
    order = np.argsort(-lengths, kind="stable")
    whole: list[np.ndarray] = []
    while len(order):
        rows = order[: max(1, graphs.at_once // lengths[order[0]])]
        order = order[len(rows) :]
        tokens = padded([sources[row] for row in rows], graphs.specials[0])
        found = graphs.run(graphs.encoder, names, {"source": OrtValue.ortvalue_from_numpy(tokens)})
        if len(rows) == 1 == len(sources):
            return names, found
        arrays = [x.numpy() for x in found]
        if not whole:  # the longest come first
            whole = [np.zeros((len(sources), *x.shape[1:]), x.dtype) for x in arrays]
        for all_rows, x in zip(whole, arrays):
            all_rows[rows, :, : x.shape[2]] = x
    return names, [OrtValue.ortvalue_from_numpy(x) for x in whole]


def columns(found: Candidates, specials: tuple[int, int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Candidates as a small vocabulary: pad, unk and eos, then the others.

    Returns:
        Tokens and log-probabilities, -inf where one of the three stands among the others, (B, N, 3 + k).
    """
    others = np.where(np.isin(found.tokens, specials), -np.inf, found.log_probs).astype(np.float32)
    ids = np.broadcast_to(np.array(specials), found.specials.shape)
    return np.concatenate([ids, found.tokens], axis=2), np.concatenate([found.specials, others], axis=2)
