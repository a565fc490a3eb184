"""Load once, call with raw text: `Bang.load(model).generate(texts, mode="nar")`.

Light: the network is an *engine*, of torch or of onnxruntime, that `Bang.load` imports with the model. `sources` makes
ids of raw text, `call_options` checks what a call asks for. This module makes batches of ids, and text of what the engine
generates.
"""

import contextlib
import itertools
import logging
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, Protocol, Unpack, overload

import numpy as np

from .. import modes
from ..decoding.link import NO_LINK
from ..errors import UserError
from ..options import DESCRIBED, Options, OptionValues, check_number
from ..text.casing import NO_CASING, Casing
from ..text.cleanup import to_text
from ..text.files import StrPath
from ..text.vocabulary import UNCASED, Normalization
from ..trained_modes import best_trained, warnings_of
from .call_options import CallOptions, choose_options
from .engine import BATCH_TOKENS, Engine, Hypothesis, batches
from .load import load_model
from .sources import NO_IDS, Source, SourceTokenizer, check_texts, has_length, prefixes_of

logger = logging.getLogger(__name__)

READ_AHEAD = 1024
"""Most texts that are read ahead of an answer, to batch texts of like lengths."""

_ON_ERROR = ("raise", "blank")


@dataclass(frozen=True)
class Generation:
    """A generated text and what is known of it.

    Attributes:
        text: for people to read.
        pieces: the word pieces it was made of, repeats and all.
        score, piece_scores, passes, path_score: as in `Hypothesis`; those of the end of the text come last.
        truncated: whether the source was cut to what the model takes.
        error: why there is no text, in one line; None: there is one.
        others: with `nbest` the other texts, best first.
    """

    text: str
    pieces: list[str]
    score: float = 0.0
    piece_scores: Sequence[float] = ()
    passes: Sequence[int] = ()
    truncated: bool = False
    error: str | None = None
    others: Sequence["Generation"] = ()
    path_score: float | None = None


class _Several(Protocol):
    """Texts in anything that has a length: a list, a tuple, an array of numpy, a Series of pandas."""

    def __len__(self) -> int: ...
    def __iter__(self) -> Iterator[Any]: ...


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
        self.normalization, self.casing = normalization, casing
        self.tokenizer = SourceTokenizer(self.pieces, normalization, engine.max_source_positions)
        self._warned: set[str] = set()
        self._loaded_by: dict[str, Any] | None = None  # arguments of `load`

    def __repr__(self) -> str:
        model = f"{self._loaded_by['model']!r}, " if self._loaded_by else ""
        link = ", link" if self.engine.link is not None else ""
        return (
            f"<Bang {model}modes {', '.join(self.modes)}, {self.defaults.mode} by default, {len(self.pieces)} word pieces{link}>"
        )

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

    @overload
    def generate(
        self, texts: str, mode: str | None = None, *, details: Literal[False] = False, **options: Unpack[CallOptions]
    ) -> str: ...
    @overload
    def generate(
        self, texts: str, mode: str | None = None, *, details: Literal[True], **options: Unpack[CallOptions]
    ) -> Generation: ...
    @overload
    def generate(
        self, texts: _Several, mode: str | None = None, *, details: Literal[False] = False, **options: Unpack[CallOptions]
    ) -> list[str]: ...
    @overload
    def generate(
        self, texts: _Several, mode: str | None = None, *, details: Literal[True], **options: Unpack[CallOptions]
    ) -> list[Generation]: ...
    @overload
    def generate(
        self, texts: Iterator[str], mode: str | None = None, *, details: Literal[False] = False, **options: Unpack[CallOptions]
    ) -> Iterator[str]: ...
    @overload
    def generate(
        self, texts: Iterator[str], mode: str | None = None, *, details: Literal[True], **options: Unpack[CallOptions]
    ) -> Iterator[Generation]: ...
    def generate(
        self,
        texts: Any,
        mode: str | None = None,
        *,
        details: bool = False,
        prefix: str | Iterable[str] | None = None,
        truncate: bool = False,
        drop_repeats: bool | None = None,
        on_error: str = "raise",
        batch_tokens: int = BATCH_TOKENS,
        read_ahead: int = READ_AHEAD,
        first: int = 1,
        progress: bool = False,
        **options: Any,
    ) -> Any:
        """Generates a text for each text.

        Args:
            texts: raw text: one, several in anything that has a length (a list, a tuple, a numpy array, a Series of
                pandas), or an iterator.
            mode: see `modes`; default: the model's.
            details: give a `Generation` for each text, with scores and word pieces, in place of its text.
            prefix: what the generated texts begin with: one beginning for all, or one for each text, "" for none. Not in NAR.
            truncate: cut sources that are longer than the model takes, and say so; else they are an error.
            drop_repeats: drop a word that repeats the one before it; default: in NAR and semi-NAR alone.
            on_error: of a text that cannot be served: "raise" a ValueError, or "blank": its text is empty, and the
                `error` of its `Generation` says why.
            batch_tokens: how many source tokens, padding included, are decoded at once.
            read_ahead: how many texts of an iterator are read ahead of an answer, at most. It begins with 1, so that the
                first answer comes soon.
            first: the number of the first text, for what is said about one.
            progress: show a bar on stderr, in a notebook where ipywidgets is installed.
            options: see `Options`. With `nbest` each `Generation` has the other texts in `others`.

        Returns:
            In the order of `texts`: a text for one text, a list for what has a length, an iterator for an
            iterator. An empty text gives an empty text. A literal `[PAD]` is passed over.

        Raises:
            ValueError: a mode or option that the model does not serve, something that is no text, or a
                text over the limit. Of a list, before anything is generated. From an iterator, when it gets there, and
                behind the answers to what came before.
        """
        chosen = self._options(mode, options)
        if chosen.nbest > 1 and not details and "nbest" in options:
            raise UserError(f"nbest={chosen.nbest} without details=True: the other texts are those in `others` of a Generation")
        check_number("batch_tokens", batch_tokens, least=1)
        check_number("read_ahead", read_ahead, least=1)
        if on_error not in _ON_ERROR:
            raise UserError(f"on_error={on_error!r}: give one of {', '.join(_ON_ERROR)}")
        check_texts(texts)
        if drop_repeats is None:
            drop_repeats = modes.find(chosen.mode).drops_repeats
        is_one, is_stream = isinstance(texts, str), not has_length(texts)
        check_number("first", first, least=1)
        prefixes = prefixes_of(prefix, None if is_stream else 1 if is_one else len(texts), chosen)
        sources = self.tokenizer.encode_all([texts] if is_one else texts, prefixes, chosen, truncate, on_error, first)
        # of a list no error may come when the work is half done
        sources, windows = (sources, _growing(read_ahead)) if is_stream else (iter(list(sources)), itertools.repeat(read_ahead))
        bar = _bar(progress, None if is_stream else 1 if is_one else len(texts))
        found = self._stream(sources, windows, chosen, drop_repeats, batch_tokens, first, bar)
        answers: Iterator[Any] = found if details else (generation.text for generation in found)
        if is_one:
            return next(answers)
        return answers if is_stream else list(answers)

    @overload
    def stream(
        self, text: str, mode: str | None = None, *, details: Literal[False] = False, prefix: str = "", truncate: bool = False,
        drop_repeats: bool | None = None, **options: Unpack[OptionValues],
    ) -> Iterator[str]: ...  # fmt: skip
    @overload
    def stream(
        self, text: str, mode: str | None = None, *, details: Literal[True], prefix: str = "", truncate: bool = False,
        drop_repeats: bool | None = None, **options: Unpack[OptionValues],
    ) -> Iterator[Generation]: ...  # fmt: skip
    def stream(
        self,
        text: str,
        mode: str | None = None,
        *,
        details: bool = False,
        prefix: str = "",
        truncate: bool = False,
        drop_repeats: bool | None = None,
        **options: Any,
    ) -> Iterator[Any]:
        """Generates a text, and yields what is kept of it after each pass of the decoder; the last one is `generate`'s text.

        Each takes the place of the one before, which it goes on from as a rule: the clean-up may join words, and NAR with a
        link may change what it wrote.

        Args:
            text, mode, details, prefix, truncate, drop_repeats, options: as those of `generate`. AR is greedy here: a beam
                search has no text before its end.

        Raises:
            ValueError: as in `generate`, before the first pass.
        """
        chosen = self._options(mode, options)
        if modes.find(chosen.mode).beam_search and not chosen.sampling:
            if options.get("beam", 1) != 1:
                raise UserError(f"beam={chosen.beam}: a beam search has no text before its end; leave it out, or give 1")
            chosen = replace(chosen, beam=1)
        if chosen.nbest > 1:
            raise UserError(f"nbest={chosen.nbest}: one text is streamed; leave it out")
        if options.get("rescore"):
            raise UserError(f"rescore={chosen.rescore}: AR chooses once all passes are done; leave it out")
        chosen = replace(chosen, rescore=0)
        if not isinstance(text, str):
            raise UserError(f"a {type(text).__name__} is no text: stream takes one str")
        if drop_repeats is None:
            drop_repeats = modes.find(chosen.mode).drops_repeats
        (source,) = self.tokenizer.encode_all([text], prefixes_of(prefix, 1, chosen), chosen, truncate, "raise")
        return self._streamed(source, chosen, drop_repeats, details)

    def _streamed(self, source: Source, options: Options, drop_repeats: bool, details: bool) -> Iterator[Any]:
        if len(source.ids) == 1:  # an empty text
            yield Generation("", []) if details else ""
            return
        given = () if source.prefix is None else (source.prefix,)
        for kept in self.engine.stream(source.ids.astype(np.int64), options, *given):
            generation = self._generation(kept, source, drop_repeats, self._restores_case(options))
            yield generation if details else generation.text

    def _options(self, mode: str | None, given: dict) -> Options:
        """The options of a call; says once where the model was not trained for the mode, or for such blocks."""
        options = choose_options(mode, given, self.defaults, self.engine, self.pieces, self.normalization)
        for warning in warnings_of(self.engine.shares, self.engine.blocks, modes.find(options.mode), options):
            if warning not in self._warned:
                self._warned.add(warning)
                logger.warning("%s", warning)
        return options

    def _stream(
        self,
        sources: Iterator[Source],
        windows: Iterable[int],
        options: Options,
        drop_repeats: bool,
        batch_tokens: int,
        first: int,
        bar: Any,
    ) -> Iterator[Generation]:
        with bar:
            numbered = enumerate(sources, start=first)
            for size in windows:
                window, failure = {}, None
                try:
                    for number, source in itertools.islice(numbered, size):
                        window[number] = source
                except Exception as error:  # what came before it is answered first
                    failure = error
                cut = [number for number, source in window.items() if source.truncated]
                if cut:
                    logger.warning("%d texts cut to %d word pieces, the first is text %d", len(cut), self.tokenizer.limit, cut[0])
                yield from self._window(list(window.values()), options, drop_repeats, batch_tokens, bar)
                if failure is not None:
                    raise failure
                if len(window) < size:
                    return

    def _window(
        self, sources: list[Source], options: Options, drop_repeats: bool, batch_tokens: int, bar: Any
    ) -> list[Generation]:
        found = [Generation("", [], error=source.error) for source in sources]
        casing = self._restores_case(options)
        draws = options.nbest if options.sampling else 1
        done = 0
        for batch in batches([len(source.ids) for source in sources], batch_tokens // draws):
            chosen = [sources[index] for index in batch]
            given = [source.prefix for source in chosen]
            prefixes = () if all(ids is None for ids in given) else ([NO_IDS if ids is None else ids for ids in given],)
            hypotheses = self.engine.generate([source.ids.astype(np.int64) for source in chosen], options, *prefixes)
            for index, hypothesis in zip(batch, hypotheses, strict=True):
                found[index] = self._generation(hypothesis, sources[index], drop_repeats, casing)
            done += len(batch)
            bar.update(len(batch))
        bar.update(len(sources) - done)  # the empty ones
        return found

    def _restores_case(self, options: Options) -> Casing | None:
        """What gives the texts capitals; None: they stay as the vocabulary has them."""
        if not self.normalization.do_lower_case or options.case == "lower":
            return None
        return self.casing if options.case is None else self.casing or Casing()

    def _generation(self, hypothesis: Hypothesis, source: Source, drop_repeats: bool, casing: Casing | None) -> Generation:
        pieces = [self.pieces[token] for token in hypothesis.tokens]
        text = to_text(" ".join(pieces), keep_repeats=not drop_repeats, source=source.text)
        if casing is not None:
            text = casing.restore(text, source.text)
        scores, passes = list(hypothesis.positional_scores), list(hypothesis.passes)
        others = [self._generation(other, source, drop_repeats, casing) for other in hypothesis.others]
        return Generation(
            text, pieces, hypothesis.score, scores, passes, source.truncated, others=others, path_score=hypothesis.path_score
        )


def _bar(progress: bool, total: int | None) -> Any:
    """A bar of progress over texts; with no progress one that shows nothing."""
    if not progress:
        return _NoBar()
    from tqdm.auto import tqdm

    return tqdm(total=total, unit=" texts")


class _NoBar(contextlib.nullcontext):
    def update(self, count: int) -> None:
        pass


def _growing(most: int) -> Iterator[int]:
    """Texts to read at once: 1, then more and more, so that the first answer comes soon."""
    size = 1
    while size < most:
        yield size
        size *= 8
    yield from itertools.repeat(most)


def _load_again(kind: type[Bang], arguments: dict[str, Any], defaults: Options) -> Bang:
    """What a pickled model becomes."""
    loaded = kind.load(**arguments)
    loaded.defaults = defaults
    return loaded
