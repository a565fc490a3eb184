"""Load once, call with raw text: `Bang.load(model).generate(texts, mode="nar")`.

Light: the network is an *engine*, of torch or of onnxruntime, that `Bang.load` imports with the model. This module
makes ids of raw text, batches of ids, and text of what the engine generates.
"""

import difflib
import itertools
import logging
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, Protocol

import numpy as np

from .. import modes
from ..decoding.link import NO_LINK, Link
from ..decoding.search import Slots
from ..errors import UserError
from ..options import DESCRIBED, Options, check_number
from ..text.casing import NO_CASING, Casing
from ..text.cleanup import to_text
from ..text.files import StrPath
from ..text.vocabulary import UNCASED, Normalization
from ..text.wordpieces import WordPieces
from ..trained_modes import Blocks, best_trained, warnings_of
from .load import load_model

logger = logging.getLogger(__name__)

BATCH_TOKENS = 2048
"""Padded source tokens of a batch, by default: enough to fill two CPU cores; a GPU takes more."""

READ_AHEAD = 1024
"""Most texts that are read ahead of an answer, to batch texts of like lengths."""

_LEAST_WIDTH = 32  # what a row counts at least: short sources have targets too
_ON_ERROR = ("raise", "blank")
_OF_CALL = ("mode", "details", "truncate", "drop_repeats", "on_error", "batch_tokens", "read_ahead")
"""What `Bang.generate` takes beside `Options`."""


class TextTooLong(UserError):
    """A text has more word pieces than the model takes."""


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
        shares: how much of the training each mode had, {mode: share}; None where unknown.
        blocks: those of the training; None where unknown.
        max_source_positions: longest source that it takes, eos included.
        link: chooses the texts of NAR and semi-NAR; None: there is none.
    """

    modes: tuple[str, ...]
    shares: dict[str, float] | None
    blocks: Blocks | None
    max_source_positions: int
    link: Link | None

    def generate(self, sources: list[np.ndarray], options: Options) -> list[Hypothesis]:
        """Generates for a batch; may be called from several threads.

        Args:
            sources: ids, none of them pad, eos last, int64, each (S,), no longer than `max_source_positions`.
        Raises:
            ValueError: an option does not serve.
        """

    def canvas(self, sources: list[np.ndarray], slots: int, count: int) -> Slots:
        """What one NAR pass says of its slots, at most so many: the `count` likeliest tokens of each.

        Args:
            sources: as those of `generate`.
        """


@dataclass(frozen=True)
class Generation:
    """A generated text and what is known of it.

    Attributes:
        text: for people to read.
        pieces: the word pieces it was made of, repeats and all.
        score, piece_scores, passes: as in `Hypothesis`; those of the end of the text come last.
        truncated: whether the source was cut to what the model takes.
        error: why there is no text, in one line; None: there is one.
    """

    text: str
    pieces: list[str]
    score: float = 0.0
    piece_scores: Sequence[float] = ()
    passes: Sequence[int] = ()
    truncated: bool = False
    error: str | None = None


class _Source(NamedTuple):
    ids: np.ndarray  # int32: a list of a million texts has to fit into memory; eos alone: no text
    truncated: bool = False
    error: str | None = None
    text: str = ""


class Bang:
    """A model that is ready to generate; `Bang.load` makes one.

    Several threads may call it at once, and a process that was forked after it was loaded may. `pickle` and
    `copy.deepcopy` take the arguments of `load` along and load again.

    Args:
        engine: runs the network.
        pieces: the vocabulary, in the order of its ids.
        defaults: options where the caller gives none.
        normalization: of text for the vocabulary.
        casing: gives texts capitals; None: there is no table.
    """

    def __init__(
        self,
        engine: Engine,
        pieces: Sequence[str],
        defaults: Options | None = None,
        normalization: Normalization = UNCASED,
        casing: Casing | None = None,
    ):
        self.engine = engine
        self.pieces = list(pieces)
        self.defaults = defaults or Options(mode=best_trained(engine.shares, engine.modes))
        self._ids = {piece: index for index, piece in enumerate(self.pieces)}
        self.normalization, self.casing = normalization, casing
        self._word_pieces = WordPieces(self.pieces, normalization)
        self._warned: set[str] = set()
        self._loaded_by: dict[str, Any] | None = None  # arguments of `load`

    def __reduce__(self):
        if self._loaded_by is None:
            raise TypeError("cannot copy or pickle a Bang that was made from an engine: Bang.load makes one that can be")
        return _load_again, (type(self), self._loaded_by, self.defaults)

    @classmethod
    def load(
        cls,
        model: StrPath,
        *,
        vocab: StrPath | None = None,
        link: StrPath | None = None,
        casing: StrPath | None = None,
        device: str | None = None,
        dtype: str = "float32",
        threads: int | None = None,
    ) -> "Bang":
        """Loads a model.

        Args:
            model: a folder of `bang pack` or `bang export`, or a checkpoint of fairseq-train.
            vocab: a checkpoint's vocabulary; default: dict.*.txt beside it, or the published vocab.txt.
                Folders bring their own.
            link: a file of `bang link`, by which NAR and semi-NAR choose their texts; "none": none.
                Default: link.bin in the folder, or beside the checkpoint, if it is there.
            casing: a file of `bang casing`, by which texts get capitals; "none": none. Default: casing.tsv as link.bin.
            device: "cpu", "cuda", "cuda:1" …; default: a GPU if there is one, of an export the CPU.
            dtype: "float32", "bfloat16" or "float16".
            threads: CPU threads of an operation; default: the library's choice.

        Raises:
            FileNotFoundError, ValueError: what is there is no whole model; one line.
        """
        found = load_model(model, vocab=vocab, link=link, casing=casing, device=device, dtype=dtype, threads=threads)
        engine = found.engine
        defaults = {name: value for name, value in found.generation.items() if name in DESCRIBED}
        options = Options(**{"mode": best_trained(engine.shares, engine.modes), **defaults})
        if options.mode not in engine.modes:
            have = ", ".join(engine.modes)
            raise UserError(f"{model}: generates in mode {options.mode!r} by default, and has {have}; make it again")
        loaded = cls(engine, found.pieces, options, found.normalization, found.casing)
        paths = dict(model=os.path.abspath(model), vocab=vocab and os.path.abspath(vocab))
        for name, file in (("link", link), ("casing", casing)):
            paths[name] = file if file in (None, NO_LINK, NO_CASING) else os.path.abspath(file)
        loaded._loaded_by = dict(**paths, device=device, dtype=dtype, threads=threads)
        return loaded

    @property
    def modes(self) -> tuple[str, ...]:
        """The modes that the model can run."""
        return self.engine.modes

    def generate(
        self,
        texts: str | Iterable[str],
        mode: str | None = None,
        *,
        details: bool = False,
        truncate: bool = False,
        drop_repeats: bool | None = None,
        on_error: str = "raise",
        batch_tokens: int = BATCH_TOKENS,
        read_ahead: int = READ_AHEAD,
        **options,
    ):
        """Generates a text for each text.

        Args:
            texts: raw text: one, several in anything that has a length (a list, a tuple, a numpy array, a Series of
                pandas), or an iterator.
            mode: see `modes`; default: the model's.
            details: give a `Generation` for each text, with scores and word pieces, in place of its text.
            truncate: cut sources that are longer than the model takes, and say so; else they are an error.
            drop_repeats: drop a word that repeats the one before it; default: in NAR and semi-NAR alone.
            on_error: of a text that cannot be served: "raise" a ValueError, or "blank": its text is empty, and the
                `error` of its `Generation` says why.
            batch_tokens: how many source tokens, padding included, are decoded at once.
            read_ahead: how many texts of an iterator are read ahead of an answer, at most. It begins with 1, so that the
                first answer comes soon.
            options: see `Options`.

        Returns:
            In the order of `texts`: a text for one text, a list for what has a length, an iterator for an
            iterator. An empty text gives an empty text. A literal `[PAD]` is passed over.

        Raises:
            ValueError: a mode or option that the model does not serve, something that is no text, or a
                text over the limit. Of a list, before anything is generated. From an iterator, when it gets there, and
                behind the answers to what came before.
        """
        chosen = self._options(mode, options)
        check_number("batch_tokens", batch_tokens, least=1)
        check_number("read_ahead", read_ahead, least=1)
        if on_error not in _ON_ERROR:
            raise UserError(f"on_error={on_error!r}: give one of {', '.join(_ON_ERROR)}")
        _check_texts(texts)
        if drop_repeats is None:
            drop_repeats = modes.find(chosen.mode).drops_repeats
        is_one, is_stream = isinstance(texts, str), not _has_length(texts)
        sources = self._sources([texts] if isinstance(texts, str) else texts, truncate, on_error)
        # of a list no error may come when the work is half done
        sources, windows = (sources, _growing(read_ahead)) if is_stream else (iter(list(sources)), itertools.repeat(read_ahead))
        found = self._stream(sources, windows, chosen, drop_repeats, batch_tokens)
        answers: Iterator[Any] = found if details else (generation.text for generation in found)
        if is_one:
            return next(answers)
        return answers if is_stream else list(answers)

    def _options(self, mode: str | None, given: dict) -> Options:
        unknown = given.keys() - DESCRIBED.keys()
        if unknown:
            near = _nearest(min(unknown), [*DESCRIBED, *_OF_CALL])
            meant = f", maybe {near} is meant" if near else ""
            raise UserError(f"{min(unknown)}: no such option{meant}; there are {', '.join(DESCRIBED)}")
        options = replace(self.defaults, **(given if mode is None else {"mode": mode, **given}))
        if options.mode not in self.engine.modes:
            raise UserError(f"mode {options.mode!r}: this model has {', '.join(self.engine.modes)}")
        if options.link:
            self._check_link(options)
        if options.case == "source" and not self.normalization.do_lower_case:
            raise UserError("case='source': this model's vocabulary has capitals of its own; leave it out")
        beam_search = modes.find(options.mode).beam_search
        if not beam_search and given.get("beam", 1) > 1:
            raise UserError(
                f"beam={options.beam}: mode {options.mode} has no beam search, which is AR's; leave it out, or give 1"
            )
        if beam_search and 2 * options.beam >= len(self.pieces):  # a search looks at twice as many candidates
            most = (len(self.pieces) - 1) // 2
            raise UserError(f"beam={options.beam}: the vocabulary of {len(self.pieces)} pieces holds one of {most} at most")
        self._warn_untrained(options)
        return options

    def _check_link(self, options: Options) -> None:
        """Refuses a link that is asked for where there can be none."""
        mode = modes.find(options.mode)
        if "link" not in mode.options:
            have = ", ".join(name for name, other in modes.MODES.items() if "link" in other.options)
            raise UserError(f"mode {mode.name} has no link, which is of {have}: leave it out, or give another mode")
        if not mode.may_link(options):
            raise UserError(f"a link in mode {mode.name} chooses whole blocks: {modes.WITHOUT_THRESHOLD}")
        if self.engine.link is None:
            raise UserError("link=True: this model has no link; make one with bang link, and give it to Bang.load")

    def _warn_untrained(self, options: Options) -> None:
        """Says once where the model was not trained for the mode, or for such blocks."""
        for warning in warnings_of(self.engine.shares, self.engine.blocks, modes.find(options.mode), options):
            if warning not in self._warned:
                self._warned.add(warning)
                logger.warning("%s", warning)

    def _stream(
        self, sources: Iterator[_Source], windows: Iterable[int], options: Options, drop_repeats: bool, batch_tokens: int
    ) -> Iterator[Generation]:
        numbered = enumerate(sources, start=1)
        for size in windows:
            window, failure = {}, None
            try:
                for number, source in itertools.islice(numbered, size):
                    window[number] = source
            except Exception as error:  # what came before it is answered first
                failure = error
            cut = [number for number, source in window.items() if source.truncated]
            if cut:
                limit = self.engine.max_source_positions - 1
                logger.warning("%d texts cut to %d word pieces, the first is text %d", len(cut), limit, cut[0])
            yield from self._window(list(window.values()), options, drop_repeats, batch_tokens)
            if failure is not None:
                raise failure
            if len(window) < size:
                return

    def _window(self, sources: list[_Source], options: Options, drop_repeats: bool, batch_tokens: int) -> list[Generation]:
        found = [Generation("", [], error=source.error) for source in sources]
        casing = self._restores_case(options)
        for batch in batches([len(source.ids) for source in sources], batch_tokens):
            hypotheses = self.engine.generate([sources[index].ids.astype(np.int64) for index in batch], options)
            for index, hypothesis in zip(batch, hypotheses, strict=True):
                found[index] = self._generation(hypothesis, sources[index], drop_repeats, casing)
        return found

    def _restores_case(self, options: Options) -> Casing | None:
        """What gives the texts capitals; None: they stay as the vocabulary has them."""
        if not self.normalization.do_lower_case or options.case == "lower":
            return None
        return self.casing if options.case is None else self.casing or Casing()

    def _sources(self, texts: Iterable[str], truncate: bool, on_error: str) -> Iterator[_Source]:
        for number, text in enumerate(texts, start=1):
            try:
                source = self._source(text, number, truncate)
            except ValueError as error:
                if on_error == "raise":
                    raise
                source = _Source(np.empty(0, dtype=np.int32), error=str(error))
            yield source

    def _source(self, text: str, number: int, truncate: bool) -> _Source:
        """The ids of a text, eos last; eos alone: an empty text. Pads are no part of a text, though it may spell them."""
        if not isinstance(text, str):
            raise UserError(f"text {number} is no text but of type {type(text).__name__}: give str")
        try:
            text.encode()
        except UnicodeEncodeError as error:
            lone = f"{text[error.start]!r} at character {error.start + 1}"
            raise UserError(f"text {number} is no Unicode text: half a surrogate pair, {lone}") from None
        limit = self.engine.max_source_positions - 1
        found = (piece for piece in self._word_pieces.pieces(text) if piece != "[PAD]")
        pieces = list(itertools.islice(found, limit + 1))  # a text may be far longer
        if len(pieces) > limit and not truncate:
            raise TextTooLong(
                f"text {number} has over {limit} word pieces, the model's limit: "
                "shorten it, or have it cut (truncate=True, --truncate-source) or left blank (on_error='blank', --on-error blank)"
            )
        ids = [self._ids[piece] for piece in pieces[:limit]] + [self._ids["[SEP]"]]
        return _Source(np.array(ids, dtype=np.int32), len(pieces) > limit, text=text)

    def _generation(
        self, hypothesis: Hypothesis, source: _Source, drop_repeats: bool, casing: Casing | None = None
    ) -> Generation:
        pieces = [self.pieces[token] for token in hypothesis.tokens]
        text = to_text(" ".join(pieces), keep_repeats=not drop_repeats, source=source.text)
        if casing is not None:
            text = casing.restore(text, source.text)
        scores, passes = list(hypothesis.positional_scores), list(hypothesis.passes)
        return Generation(text, pieces, hypothesis.score, scores, passes, source.truncated)


def batches(lengths: list[int], batch_tokens: int) -> Iterator[list[int]]:
    """Indices of sources of like length, longest first, as many as fit; none of an empty source (its eos alone)."""
    order = sorted((index for index, length in enumerate(lengths) if length > 1), key=lambda index: -lengths[index])
    while order:
        rows = max(1, batch_tokens // max(lengths[order[0]], _LEAST_WIDTH))
        yield order[:rows]
        order = order[rows:]


def _growing(most: int) -> Iterator[int]:
    """Texts to read at once: 1, then more and more, so that the first answer comes soon."""
    size = 1
    while size < most:
        yield size
        size *= 8
    yield from itertools.repeat(most)


def _check_texts(texts: Any) -> None:
    """Refuses what is no text and no texts.

    Raises:
        ValueError: in one line.
    """
    if isinstance(texts, (bytes, bytearray, Mapping)) or not isinstance(texts, Iterable):
        raise UserError(f"a {type(texts).__name__} is no text: give a str or several")
    dimensions = getattr(texts, "ndim", 1)  # of an array or a table
    if dimensions != 1:  # the texts of a DataFrame would be the names of its columns
        raise UserError(f"a {type(texts).__name__} of {dimensions} dimensions holds no texts in order: give a column of it")


def _has_length(texts: Any) -> bool:
    try:
        return len(texts) >= 0
    except TypeError:
        return False


def _nearest(name: str, names: Iterable[str]) -> str | None:
    """The one of `names` that a wrong one may stand for; None: none is near."""
    found = difflib.get_close_matches(name, list(names), n=1)
    return found[0] if found else None


def _load_again(kind: type[Bang], arguments: dict[str, Any], defaults: Options) -> Bang:
    """What a pickled model becomes."""
    loaded = kind.load(**arguments)
    loaded.defaults = defaults
    return loaded
