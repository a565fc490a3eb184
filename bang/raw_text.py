"""Raw text in fairseq's own commands: `--bpe bang`, `--eval-bleu-detok bang`, and a word where raw text came unasked."""

import logging
from dataclasses import dataclass, field
from typing import Optional, Sequence

from fairseq.data.encoders import register_bpe, register_tokenizer
from fairseq.dataclass import FairseqDataclass

from .text.cleanup import to_text
from .text.vocabulary import VOCAB, read_vocabulary
from .text.wordpieces import WordPieces

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
        self.use(list(read_vocabulary(cfg.bpe_vocab_file or VOCAB)))

    def use(self, pieces: Sequence[str]) -> None:
        """Takes these word pieces, in the order of their ids."""
        self._word_pieces = WordPieces(pieces)

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
