"""The modes: one table of what each mode sees, how it decodes, what trains it and which options it has.

A mode is one entry of `MODES`. fairseq's task, the Python API, both engines, the command line, the checks, the
warnings and the tables of the docs read it. To add a mode, add an entry: a layout, which says what a slot sees when
a known text is scored or trained (`visibility`), and a *decoding strategy*, which says how many tokens a pass of the
decoder gives and which of them are kept (`Strategy`).
"""

import math
from collections.abc import Callable, Container, Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

from . import visibility
from .errors import UserError
from .options import DESCRIBED, Options
from .visibility import Layout

AR, NAR = "ar", "nar"
"""The modes that the others build on: AR teaches and scores their texts, and a canvas of NAR weighs a link."""

NEVER = float("inf")

WITHOUT_THRESHOLD = "leave out --commit-threshold, and give --block-size 2 or more"
"""What a link asks of semi-NAR, in a refusal."""

NAR_PIECE, NAR_FIRST_PIECE = 33, 16
"""Slots of a NAR canvas that are decoded at once: 32 tokens and an end. Most texts end in the first piece, which is
shorter; later slots run only when some sentence needs them."""


class Strategy(NamedTuple):
    """A decoding strategy: how many tokens a pass gives, and which of them are kept.

    Attributes:
        drafts: most tokens that a block gives beyond its first, D.
        verify: drafts not kept are fed to the next pass, which keeps those that it would have given.
        threshold: drafts are kept unverified as long as each has at least this probability; NEVER: none.
        anchored: blocks hang on the last token; False: NAR, whose slots see no token.
        source_gain: log-probability added to a verified draft that follows the token before it in the source.
        drafts_of_pass: D of the pass with this number, from 0; None: always `drafts`.
    """

    drafts: int
    verify: bool = False
    threshold: float = 0.0
    anchored: bool = True
    source_gain: float = 0.0
    drafts_of_pass: Callable[[int], int] | None = None

    def drafts_at(self, number: int) -> int:
        """D of the pass with this number, from 0."""
        return self.drafts if self.drafts_of_pass is None else min(self.drafts_of_pass(number), self.drafts)

    @property
    def sure(self) -> float | None:
        """Log-probability from which on a draft is kept unverified; None: never."""
        return None if self.threshold == NEVER else math.log(max(self.threshold, 1e-300))

    def block_sizes(self, drafts: int, blocks: int) -> tuple[int, ...]:
        """Slots of the blocks of a pass.

        Blocks behind a draft are reached less often, and extra slots cost more than they save. So they draft half as
        far (two tokens at least), or one token where the source may go on.
        """
        behind = drafts
        if self.verify:
            behind = min(drafts, 1) if self.source_gain else max(min(drafts, 2), -(-drafts // 2))
        return (1 + drafts,) + (1 + behind,) * (blocks - 1)


@dataclass(frozen=True)
class Mode:
    """A mode.

    Attributes:
        name: as users give it.
        title: as tables show it.
        sees: what a prediction sees, for tables.
        layout: (target length, options, first target) to the teacher-forced layout.
        strategy: options to the decoding strategy.
        options: of generation, those that act in this mode and not in every other. The strategy reads some of them.
        trained_as: the mode whose training trains this one; None: its own.
        share: the criterion's option with this mode's share of the training; None: what the others leave.
        streams_train: the mode that its updates train too if they have several predicting streams (--ngram), stream i as
            slot i of a block; None: its updates have no such streams.
        verified: each token was chosen with all tokens before it known.
        block_option: the option with the length of a block; None: no block, or one without a length.
    """

    name: str
    title: str
    sees: str
    layout: Callable[[int, Options, int], Layout]
    strategy: Callable[[Options], Strategy]
    options: tuple[str, ...] = ()
    trained_as: str | None = None
    share: str | None = None
    streams_train: str | None = None
    verified: bool = False
    block_option: str | None = None

    @property
    def training(self) -> str:
        """The mode whose training trains this one."""
        return self.trained_as or self.name

    @property
    def anchored(self) -> bool:
        """Whether slots see tokens of their text, so that it may have a given beginning."""
        return self.strategy(Options(mode=self.name)).anchored

    @property
    def beam_search(self) -> bool:
        """Whether a beam may be searched."""
        return "beam" in self.options

    def value(self, options: Options, name: str) -> Any:
        """An option's value; its default where it has no effect in this mode."""
        return getattr(options, name) if name in self.options else DESCRIBED[name].default

    def may_link(self, options: Options) -> bool:
        """Whether a link may choose the tokens: where several of a pass are kept that nothing verifies."""
        strategy = self.strategy(options)
        return "link" in self.options and strategy.drafts > 0 and not strategy.verify

    @property
    def drops_repeats(self) -> bool:
        """Whether the clean-up drops a word that repeats the one before: slots do not see each other's tokens."""
        return not self.verified


def _autoregressive(options: Options) -> Strategy:
    return Strategy(drafts=0)


def _semi_autoregressive(options: Options) -> Strategy:
    """Without a threshold blocks are kept whole. With one, the sure beginning of a block is kept, one token at least,
    and the rest are drafts that the next pass verifies; so a threshold of 1 gives greedy AR's text."""
    threshold = options.commit_threshold
    if threshold == 0 or options.block_size == 1:
        return Strategy(options.block_size - 1)
    return Strategy(options.block_size - 1, True, threshold if threshold < 1 else NEVER, True, options.draft_from_source)


def _non_autoregressive(options: Options) -> Strategy:
    """The canvas is decoded in pieces until every text has ended: a slot never sees later ones."""
    return Strategy(NAR_PIECE - 1, anchored=False)


def _speculative(options: Options) -> Strategy:
    return Strategy(options.draft_length, verify=True, threshold=NEVER, source_gain=options.draft_from_source)


def _causal(length: int, options: Options, start: int) -> Layout:
    return visibility.autoregressive(length)


_SAMPLING = ("sampling", "sampling_topk", "sampling_topp", "no_repeat_ngram_size")

_ENTRIES = (
    Mode(
        name=AR,
        title="AR",
        sees="all tokens before it",
        layout=_causal,
        strategy=_autoregressive,
        options=("beam", *_SAMPLING),
        streams_train="semi-nar",
        verified=True,
    ),
    Mode(
        name="semi-nar",
        title="semi-NAR",
        sees="all tokens before its block, and the slots of its block up to its own",
        layout=lambda length, options, start: visibility.semi_autoregressive(length, options.block_size, start),
        strategy=_semi_autoregressive,
        options=("block_size", "commit_threshold", "draft_from_source", "eos_penalty", "link"),
        share="semi_nar_ratio",
        block_option="block_size",
    ),
    Mode(
        name=NAR,
        title="NAR",
        sees="no token: all slots up to its own",
        layout=lambda length, options, start: visibility.non_autoregressive(length),
        strategy=_non_autoregressive,
        options=("eos_penalty", "rescore", "link"),
        share="nar_ratio",
    ),
    Mode(
        name="speculative",
        title="speculative",
        sees="as AR: slots draft, and later passes verify",
        layout=_causal,
        strategy=_speculative,
        options=("draft_length", "draft_from_source", *_SAMPLING),
        trained_as=AR,
        verified=True,
        block_option="draft_length",
    ),
)
MODES: dict[str, Mode] = {mode.name: mode for mode in _ENTRIES}


def find(name: object) -> Mode:
    """The mode of this name.

    Raises:
        ValueError: there is none; one line with the names.
    """
    if name not in MODES:
        raise UserError(f"mode {name!r}: give one of {', '.join(MODES)}")
    return MODES[name]


def strategy(name: str, **options) -> Strategy:
    """The decoding strategy of a mode, with some options."""
    return find(name).strategy(Options(mode=name, **options))


def trained() -> tuple[str, ...]:
    """Names of the modes that are trained as themselves."""
    return tuple(mode.name for mode in MODES.values() if mode.trained_as is None)


def decoded(trains: Container[str]) -> tuple[str, ...]:
    """Names of the modes that a model decodes in which trains in these."""
    return tuple(mode.name for mode in MODES.values() if mode.training in trains)


def with_option(name: str) -> tuple[str, ...]:
    """Names of the modes that have a generation option."""
    return tuple(mode.name for mode in MODES.values() if name in mode.options)


def options_without_effect(mode: Mode, names: Iterable[str]) -> list[str]:
    """Of some generation options those that act in other modes alone, in order."""
    elsewhere = {option for other in MODES.values() for option in other.options} - set(mode.options)
    return [name for name in names if name in elsewhere]
