"""The options of generation, described once: names, defaults, limits and help.

fairseq's task, `Bang.generate`, the engines and the command line all take them from here.
"""

from dataclasses import MISSING, Field, dataclass, field, fields
from numbers import Integral, Real
from typing import Any, TypedDict

from .errors import UserError
from .visibility import BLOCK_SIZE

SOURCE_GAIN = 4.0
"""Log-probability that a draft gains if the source has it after the same token: a factor of 55."""

CASES = ("lower", "source")
"""Texts in the vocabulary's lower case, or with the capitals of their sources."""

_MOST = 10**9  # above any length or count, and within every library's integers


def check_number(name: str, value: Any, least: float = 0, most: float = _MOST, whole: bool = True) -> None:
    """Refuses a value that is not a number, or is out of range.

    Raises:
        ValueError: in one line.
    """
    is_number = isinstance(value, Integral if whole else Real) and not isinstance(value, bool)
    if not is_number or not least <= value <= most:
        limits = f"{least} or more" if most == _MOST else f"from {least} to {most}"
        raise UserError(f"{name}={value!r}: give a {'whole ' if whole else ''}number, {limits}")


def _option(default: Any, help: str, least: float = 0, most: float = _MOST) -> Any:
    return field(default=default, metadata={"help": help, "limits": (least, most)})


@dataclass(frozen=True)
class Options:
    """How to generate. Lengths are in word pieces. Each option's help stands in its metadata (`describe`)."""

    mode: str = _option("ar", "how to generate: a name of `modes.MODES`")
    beam: int = _option(4, "hypotheses of AR's beam search; 1: greedy", least=1)
    block_size: int = _option(BLOCK_SIZE, "tokens that semi-NAR predicts at once", least=1)
    commit_threshold: float = _option(
        0.0,
        "semi-NAR keeps a block's tokens before the first with a probability below this (one at least), and the next pass "
        "verifies the others. 0 keeps all, 1 is greedy AR's text. Train with --ngram, or with --semi-nar-ratio and "
        "--random-block-offset",
        most=1,
    )
    draft_length: int = _option(BLOCK_SIZE, "tokens that speculative decoding drafts at once", least=1)
    draft_from_source: float = _option(
        SOURCE_GAIN,
        "log-probability that a draft gains if it follows the token before it somewhere in the source (0: the network alone "
        "drafts)",
    )
    eos_penalty: float = _option(
        0.0,
        "NAR and semi-NAR subtract this from the log-probability of a text's end: above 0 for longer texts, below 0 for shorter",
        -100,
        100,
    )
    max_len: int = _option(200, "limit on the word pieces of a text")
    max_len_a: float = _option(0.0, "what each word piece of the source adds to that limit")
    min_len: int = _option(1, "least word pieces of a text; the limit wins over it")
    len_penalty: float = _option(1.0, "a text's score is its log-probability over its length to this power", -100, 100)
    no_repeat_ngram_size: int = _option(
        0, "in AR and speculative decoding, no sequence of this many word pieces occurs twice in a text (0: it may)"
    )
    nbest: int = _option(1, "texts for each source, best first: at most the beam of a beam search, or this many samples", least=1)
    sampling: bool = field(
        default=False,
        metadata={
            "help": "in AR and speculative decoding, draw each word piece by its probability; the draw depends on the seed and "
            "the source alone"
        },
    )
    sampling_topk: int = _option(0, "draw among this many most probable word pieces (0: all)")
    sampling_topp: float = _option(
        0.0, "draw among the fewest word pieces with this total probability (0: all); applied before --sampling-topk", most=1
    )
    temperature: float = _option(1.0, "divides the logits before a draw: below 1 for less random texts", least=0.01)
    seed: int = _option(1, "random seed of the sampling")
    rescore: int = _option(
        0,
        "with a link, AR scores this many of NAR's best paths in one more pass and picks one (0: the best path is the text)",
    )
    link: bool | None = field(
        default=None,
        metadata={
            "help": "whether NAR, and semi-NAR without a threshold, use the model's link (None: if it has one; True: an error "
            "if there is none, or the mode is another)"
        },
    )

    case: str | None = field(
        default=None,
        metadata={
            "choices": CASES,
            "help": "capitals for a lower-cased vocabulary: source gives each word its form in the source, else in the training "
            "targets by the model's table (casing.tsv); lower gives none (default: source if the model has a table)",
        },
    )

    def __post_init__(self) -> None:
        for option in fields(self):
            if option.type in (int, float):
                least, most = option.metadata["limits"]
                check_number(option.name, getattr(self, option.name), least, most, option.type is int)
        if not isinstance(self.sampling, bool):
            raise UserError(f"sampling={self.sampling!r}: give True or False")
        for name in ("sampling_topk", "sampling_topp", "temperature"):
            value = getattr(self, name)
            if not self.sampling and value != DESCRIBED[name].default:
                raise UserError(f"{name}={value}: this acts in sampling only; give sampling=True (--sampling), or leave it out")
        if not (self.link is None or isinstance(self.link, bool)):
            raise UserError(f"link={self.link!r}: give True, False or None; a link's file is for Bang.load")
        if self.rescore == 1:
            raise UserError("rescore=1: a choice needs 2 candidates or more (0: no rescoring)")
        if self.case not in (None, *CASES):
            raise UserError(f"case={self.case!r}: give {' or '.join(CASES)}")
        if not isinstance(self.mode, str):
            raise UserError(f"mode={self.mode!r}: give the name of a mode")
        if not self.max_len and not self.max_len_a:
            raise UserError("max_len=0, max_len_a=0: every text would be empty; raise one of them")
        if not self.max_len_a and self.min_len > self.max_len:
            lengths = f"min_len={self.min_len}, max_len={self.max_len}"
            raise UserError(f"{lengths}: no text is long enough; lower the one or raise the other")


DESCRIBED: dict[str, Field] = {option.name: option for option in fields(Options)}
"""The options by name, with their types, defaults and help."""


class OptionValues(TypedDict, total=False):
    """`Options` but the mode, as keyword arguments that type checkers and editors know."""

    beam: int
    block_size: int
    commit_threshold: float
    draft_length: int
    draft_from_source: float
    eos_penalty: float
    max_len: int
    max_len_a: float
    min_len: int
    len_penalty: float
    no_repeat_ngram_size: int
    nbest: int
    sampling: bool
    sampling_topk: int
    sampling_topp: float
    temperature: float
    seed: int
    rescore: int
    link: bool | None
    case: str | None


def describe(name: str) -> Any:
    """A dataclass field with the default and the help of an option, for a configuration of fairseq's."""
    option = DESCRIBED[name]
    assert option.default is not MISSING
    return field(default=option.default, metadata={"help": option.metadata["help"]})
