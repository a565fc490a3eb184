"""The options of generation, described once: names, defaults, limits and help.

fairseq's task, `Bang.generate`, the engines and the command line all take them from here.
"""

from dataclasses import MISSING, Field, dataclass, field, fields
from numbers import Integral, Real
from typing import Any

from .errors import UserError
from .visibility import BLOCK_SIZE

SOURCE_GAIN = 4.0
"""Log-probability that a draft gains where it follows in the source: a factor of 55."""

CASES = ("lower", "source")
"""How texts are written: as the model's vocabulary has them, or with the capitals of their sources."""

_MOST = 10**9  # more than any length or count, and what integers of every library hold


def check_number(name: str, value: Any, least: float = 0, most: float = _MOST, whole: bool = True) -> None:
    """Refuses what is no number, or none of a range.

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
        "semi-NAR keeps the beginning of a block whose tokens each have at least this probability, one token at least; the "
        "others are drafts that the next pass verifies. 0 keeps whole blocks, 1 is greedy AR's text. Blocks then hang on any "
        "token: train with --ngram, or with --semi-nar-ratio and --random-block-offset",
        most=1,
    )
    draft_length: int = _option(BLOCK_SIZE, "tokens that speculative decoding drafts at once", least=1)
    draft_from_source: float = _option(
        SOURCE_GAIN,
        "log-probability that a draft gains if it follows the token before it somewhere in the source: of several likely "
        "drafts the one that the source has is tried (0: the network alone drafts)",
    )
    eos_penalty: float = _option(
        0.0,
        "what NAR and semi-NAR take off the log-probability of a text's end: above 0 for longer texts, below 0 for shorter ones",
        -100,
        100,
    )
    max_len: int = _option(200, "limit on the word pieces of a text")
    max_len_a: float = _option(0.0, "what each word piece of the source adds to that limit")
    min_len: int = _option(1, "least word pieces of a text; the limit wins over it")
    len_penalty: float = _option(1.0, "a text's score is its log-probability over its length to this power", -100, 100)
    no_repeat_ngram_size: int = _option(
        0, "in AR and speculative decoding, no sequence of so many word pieces comes twice in a text (0: it may)"
    )
    link: bool | None = field(
        default=None,
        metadata={
            "help": "whether NAR, and semi-NAR without a threshold, write the best path by the model's link (None: if it has "
            "one; True: it must, and the mode must be one of them)"
        },
    )

    case: str | None = field(
        default=None,
        metadata={
            "choices": CASES,
            "help": "capitals in texts of a vocabulary that has none: source gives each word the form that it has in the source, "
            "else the training targets' by the model's table (casing.tsv), lower leaves them out (default: source if the model "
            "has a table)",
        },
    )

    def __post_init__(self) -> None:
        for option in fields(self):
            if option.type in (int, float):
                least, most = option.metadata["limits"]
                check_number(option.name, getattr(self, option.name), least, most, option.type is int)
        if not (self.link is None or isinstance(self.link, bool)):
            raise UserError(f"link={self.link!r}: give True, False or None; a link's file is for Bang.load")
        if self.case not in (None, *CASES):
            raise UserError(f"case={self.case!r}: give {' or '.join(CASES)}")
        if not isinstance(self.mode, str):
            raise UserError(f"mode={self.mode!r}: give the name of a mode")
        if not self.max_len and not self.max_len_a:
            raise UserError("max_len=0, max_len_a=0: a text of no word piece; raise one of them")
        if not self.max_len_a and self.min_len > self.max_len:
            lengths = f"min_len={self.min_len}, max_len={self.max_len}"
            raise UserError(f"{lengths}: no text is long enough; lower the one or raise the other")


DESCRIBED: dict[str, Field] = {option.name: option for option in fields(Options)}
"""The options by name, with their types, defaults and help."""


def describe(name: str) -> Any:
    """A dataclass field with the default and the help of an option, for a configuration of fairseq's."""
    option = DESCRIBED[name]
    assert option.default is not MISSING
    return field(default=option.default, metadata={"help": option.metadata["help"]})
