"""Raw text in fairseq's own commands: `--bpe bang`, `--eval-bleu-detok bang`, and a word where raw text came unasked."""

import itertools
import logging
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Optional

from fairseq.data.encoders import register_bpe, register_tokenizer
from fairseq.dataclass import FairseqDataclass

from ..text.cleanup import to_text
from ..text.files import decode_line, read_lines, standard_input
from ..text.vocabulary import UNCASED, VOCAB, Normalization, read_normalization, read_vocabulary
from ..text.wordpieces import WordPieces

logger = logging.getLogger(__name__)


@dataclass
class BangBpeConfig(FairseqDataclass):
    bpe_vocab_file: Optional[str] = field(
        default=None, metadata={"help": "vocabulary of --bpe bang (default: the data's, or the published vocab.txt)"}
    )


@register_bpe("bang", dataclass=BangBpeConfig)
class BangBpe:
    """Raw text to our word pieces, `[X_SEP]` kept whole, and word pieces to text for people, repeats and all.

    A literal `[PAD]` is passed over, as in `bang.Bang`: it would be hidden from the model, and count in limits by length.
    """

    def __init__(self, cfg: BangBpeConfig):
        self.has_own_vocabulary = cfg.bpe_vocab_file is not None
        vocabulary = cfg.bpe_vocab_file or VOCAB
        self.use(list(read_vocabulary(vocabulary)), read_normalization(vocabulary))

    def use(self, pieces: Sequence[str], normalization: Normalization = UNCASED) -> None:
        """Takes these word pieces, in the order of their ids."""
        self._word_pieces = WordPieces(pieces, normalization)

    def encode(self, x: str) -> str:
        return " ".join(piece for piece in self._word_pieces(x).split(" ") if piece != "[PAD]")

    def decode(self, x: str) -> str:
        return to_text(x, keep_repeats=True)


@register_tokenizer("bang", dataclass=FairseqDataclass)
class BangDetokenizer:
    """Word pieces to text for people, for `--eval-bleu-detok bang`: fairseq asks a tokenizer for that, not a BPE."""

    def __init__(self, *unused):
        pass

    def encode(self, x: str) -> str:
        return x

    def decode(self, x: str) -> str:
        return to_text(x, keep_repeats=True)


def read_in_buffers(path: str, buffer_size: int) -> Iterator[list[str]]:
    """fairseq-interactive's `buffered_read`; a line ends at a line feed and nowhere else, so each gives one text.

    Args:
        path: --input; "-": stdin.

    Raises:
        ValueError: a line is not UTF-8.
    """
    lines = _typed_lines() if path == "-" else read_lines(path)
    while buffer := [line.strip() for line in itertools.islice(lines, buffer_size)]:
        yield buffer


def _typed_lines() -> Iterator[str]:
    for number, line in enumerate(standard_input(), start=1):
        yield decode_line(line.removesuffix(b"\n"), "stdin", number)


def read_interactive_lines() -> None:
    """Has fairseq-interactive, where it is what runs, read its input by `read_in_buffers`.

    Its own reader takes a lone carriage return of a file for the end of a line.
    """
    for name in ("__main__", "fairseq_cli.interactive"):
        module: Any = sys.modules.get(name)
        if hasattr(module, "buffered_read") and hasattr(module, "make_batches"):
            module.buffered_read = read_in_buffers


def warn_of_unknown(unknown: int, total: int, what: str) -> None:
    """Says so where more than a third of some word pieces are [UNK], as they are of raw text.

    Args:
        unknown, total: word pieces, eos not counted.
        what: they are of.
    """
    if 3 * unknown > total:
        logger.warning(
            "%s: %.0f %% of %d word pieces are [UNK]; raw text has to be tokenized first: bang tokenize, in "
            "fairseq-interactive --bpe bang", what, 100 * unknown / total, total,
        )  # fmt: skip
