"""Load once, call with raw text: `Bang.load(model).generate(texts, mode="nar")`.

Light: the network is an *engine*, of torch or of onnxruntime, that `Bang.load` imports with the model. This module
makes ids of raw text, batches of ids, and text of what the engine generates.
"""

import itertools
import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple, Protocol

import numpy as np

from .. import modes
from ..options import DESCRIBED, Options, check_number
from ..text.cleanup import to_text
from ..text.files import StrPath
from ..text.wordpieces import WordPieces
from ..trained_modes import Blocks, best_trained, warning_of_blocks
from . import folder

logger = logging.getLogger(__name__)

BATCH_TOKENS = 2048
"""Padded source tokens of a batch, by default: enough to fill two CPU cores; a GPU takes more."""

READ_AHEAD = 1024
"""Texts of an iterator that are read ahead of the first one's answer, to batch texts of like lengths."""

_LEAST_WIDTH = 32  # what a row counts at least: short sources have targets too

class Hypothesis(NamedTuple):
    """What an engine generates of one source.

    Attributes:
        tokens: ids, without the eos that ends the text.
        score: log-probability, normalised by length.
        positional_scores: log-probability of each token, and of the eos after them.
        passes: the decoder's pass that gave each token, and the eos after them, counted from 0.
    """

    tokens: list[int]
    score: float
    positional_scores: list[float]
    passes: list[int]


class Engine(Protocol):
    """A loaded network.

    Attributes:
        modes: names of the modes that it can run.
        shares: how much of the training each mode had, {mode: share}; None where nobody knows.
        blocks: those of the training; None where nobody knows.
        max_source_positions: longest source that it takes, eos included.
    """

    modes: Sequence[str]
    shares: dict[str, float] | None
    blocks: Blocks | None
    max_source_positions: int

    def generate(self, sources: list[np.ndarray], options: Options) -> list[Hypothesis]:
        """Generates for a batch; may be called from several threads.

        Args:
            sources: ids, none of them pad, eos last, int64, each (S,), no longer than `max_source_positions`.
        Raises:
            ValueError: an option does not serve.
        """


@dataclass(frozen=True)
class Generation:
    """A generated text and what is known of it.

    Attributes:
        text: for people to read.
        pieces: the word pieces it was made of, repeats and all.
        score, piece_scores, passes: as in `Hypothesis`; those of the end of the text come last.
        truncated: whether the source was cut to what the model takes.
    """

    text: str
    pieces: list[str]
    score: float = 0.0
    piece_scores: list[float] = ()
    passes: list[int] = ()
    truncated: bool = False


class _Source(NamedTuple):
    ids: np.ndarray
    truncated: bool


class Bang:
    """A model that is ready to generate; `Bang.load` makes one.

    Several threads may call it at once.

    Args:
        engine: runs the network.
        pieces: the vocabulary, in the order of its ids.
        defaults: options where the caller gives none.
    """

    def __init__(self, engine: Engine, pieces: Sequence[str], defaults: Options | None = None):
        self.engine = engine
        self.pieces = list(pieces)
        self.defaults = defaults or Options(mode=best_trained(engine.shares, engine.modes))
        self._ids = {piece: index for index, piece in enumerate(self.pieces)}
        self._word_pieces = WordPieces(self.pieces)
        self._warned: set[str] = set()

    @classmethod
    def load(
        cls,
        model: StrPath,
        *,
        vocab: StrPath | None = None,
        device: str | None = None,
        dtype: str = "float32",
        threads: int | None = None,
    ) -> "Bang":
        """Loads a model.

        Args:
            model: a folder of `bang pack` or `bang export`, or a checkpoint of fairseq-train.
            vocab: a checkpoint's vocabulary; default: dict.*.txt beside it, or the published vocab.txt.
                Folders bring their own.
            device: "cpu", "cuda", "cuda:1" …; default: a GPU if there is one, of an export the CPU.
            dtype: "float32", "bfloat16" or "float16".
            threads: CPU threads of an operation; default: the library's choice.

        Raises:
            FileNotFoundError, ValueError: what is there is no whole model; one line.
        """
        engine, pieces, defaults = folder.load(model, vocab=vocab, device=device, dtype=dtype, threads=threads)
        defaults = {name: value for name, value in defaults.items() if name in DESCRIBED}
        options = Options(**{"mode": best_trained(engine.shares, engine.modes), **defaults})
        if options.mode not in engine.modes:
            have = ", ".join(engine.modes)
            raise ValueError(f"{model}: generates in mode {options.mode!r} by default, and has {have}; make it again")
        return cls(engine, pieces, options)

    @property
    def modes(self) -> tuple[str, ...]:
        """The modes that the model can run."""
        return tuple(self.engine.modes)

    def generate(
        self,
        texts: str | Iterable[str],
        mode: str | None = None,
        *,
        details: bool = False,
        truncate: bool = False,
        drop_repeats: bool | None = None,
        batch_tokens: int = BATCH_TOKENS,
        read_ahead: int = READ_AHEAD,
        **options,
    ):
        """Generates a text for each text.

        Args:
            texts: raw text: one, a sequence, or an iterable, which is read `read_ahead` texts at a time.
            mode: see `modes`; default: the model's.
            details: give a `Generation` for each text, with scores and word pieces, in place of its text.
            truncate: cut sources that are longer than the model takes, and say so; else they are an error.
            drop_repeats: drop a word that repeats the one before it; default: in NAR and semi-NAR alone.
            batch_tokens: how many source tokens, padding included, are decoded at once.
            options: see `Options`.

        Returns:
            In the order of `texts`: a text for one text, a list for a sequence, an iterator for any other
            iterable. An empty text gives an empty text. A literal `[PAD]` is passed over.

        Raises:
            ValueError: a mode or option that the model does not serve, something that is no text, or a
                text over the limit. From an iterator, when it gets there.
        """
        options = self._options(mode, options)
        check_number("batch_tokens", batch_tokens, least=1)
        check_number("read_ahead", read_ahead, least=1)
        is_one = isinstance(texts, str)
        if not is_one and (isinstance(texts, (bytes, bytearray)) or not isinstance(texts, Iterable)):
            raise ValueError(f"a {type(texts).__name__} is no text: give a str or several")
        if drop_repeats is None:
            drop_repeats = modes.find(options.mode).drops_repeats
        found = self._stream([texts] if is_one else texts, options, truncate, drop_repeats, batch_tokens, read_ahead)
        if not details:
            found = (generation.text for generation in found)
        if is_one:
            return next(found)
        return list(found) if isinstance(texts, Sequence) else found

    def _options(self, mode: str | None, given: dict) -> Options:
        unknown = given.keys() - DESCRIBED.keys()
        if unknown:
            raise ValueError(f"{min(unknown)}: no such option; there are {', '.join(DESCRIBED)}")
        options = replace(self.defaults, **({} if mode is None else {"mode": mode}), **given)
        if options.mode not in self.engine.modes:
            raise ValueError(f"mode {options.mode!r}: this model has {', '.join(self.engine.modes)}")
        beam_search = modes.find(options.mode).beam_search
        if not beam_search and given.get("beam", 1) > 1:
            raise ValueError(f"beam={options.beam}: mode {options.mode} has no beam search, which is AR's; leave it out, or give 1")
        if beam_search and 2 * options.beam >= len(self.pieces):  # a search looks at twice as many candidates
            most = (len(self.pieces) - 1) // 2
            raise ValueError(f"beam={options.beam}: the vocabulary of {len(self.pieces)} pieces holds one of {most} at most")
        self._warn_untrained(options)
        return options

    def _warn_untrained(self, options: Options) -> None:
        """Says once where the model was not trained for the mode, or for such blocks."""
        mode, shares, warnings = modes.find(options.mode), self.engine.shares, []
        if shares and mode.training not in shares:
            trained = ", ".join(f"{name} {share:.0%}" for name, share in shares.items())
            warnings.append(f"mode {mode.name}: this model was not trained for it ({trained}); its texts will be poor")
        blocks = warning_of_blocks(self.engine.blocks, mode, options)
        for warning in [*warnings, *filter(None, [blocks])]:
            if warning not in self._warned:
                self._warned.add(warning)
                logger.warning("%s", warning)

    def _stream(
        self, texts: Iterable[str], options: Options, truncate: bool, drop_repeats: bool, batch_tokens: int, read_ahead: int
    ) -> Iterator[Generation]:
        numbered = enumerate(texts, start=1)
        while window := list(itertools.islice(numbered, read_ahead)):
            sources = [self._source(text, number, truncate) for number, text in window]
            cut = [number for (number, _), source in zip(window, sources) if source.truncated]
            if cut:
                limit = self.engine.max_source_positions - 1
                logger.warning("%d texts cut to %d word pieces, the first is text %d", len(cut), limit, cut[0])
            found = [Generation("", [])] * len(sources)
            for batch in _batches([len(source.ids) for source in sources], batch_tokens):
                hypotheses = self.engine.generate([sources[index].ids for index in batch], options)
                for index, hypothesis in zip(batch, hypotheses, strict=True):
                    found[index] = self._generation(hypothesis, sources[index].truncated, drop_repeats)
            yield from found

    def _source(self, text: str, number: int, truncate: bool) -> _Source:
        """The ids of a text, eos last; eos alone: an empty text. Pads are no part of a text, though it may spell them."""
        if not isinstance(text, str):
            raise ValueError(f"text {number} is no text but of type {type(text).__name__}: give str")
        try:
            text.encode()
        except UnicodeEncodeError as error:
            lone = f"{text[error.start]!r} at character {error.start + 1}"
            raise ValueError(f"text {number} is no Unicode text: half a surrogate pair, {lone}") from None
        pieces = [piece for piece in self._word_pieces(text).split() if piece != "[PAD]"]
        limit = self.engine.max_source_positions - 1
        if len(pieces) > limit and not truncate:
            raise ValueError(
                f"text {number} has {len(pieces)} word pieces, over the model's limit of {limit}: "
                "shorten it, or have it cut (truncate=True, --truncate-source)"
            )
        ids = [self._ids[piece] for piece in pieces[:limit]] + [self._ids["[SEP]"]]
        return _Source(np.array(ids, dtype=np.int64), len(pieces) > limit)

    def _generation(self, hypothesis: Hypothesis, truncated: bool, drop_repeats: bool) -> Generation:
        pieces = [self.pieces[token] for token in hypothesis.tokens]
        text = to_text(" ".join(pieces), keep_repeats=not drop_repeats)
        return Generation(
            text, pieces, hypothesis.score, list(hypothesis.positional_scores), list(hypothesis.passes), truncated
        )


def _batches(lengths: list[int], batch_tokens: int) -> Iterator[list[int]]:
    """Indices of sources of like length, longest first, as many as fit; none of an empty source (its eos alone)."""
    order = sorted((index for index, length in enumerate(lengths) if length > 1), key=lambda index: -lengths[index])
    while order:
        rows = max(1, batch_tokens // max(lengths[order[0]], _LEAST_WIDTH))
        yield order[:rows]
        order = order[rows:]
