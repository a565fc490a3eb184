"""BERT word pieces of a line of text, lower-cased unless its vocabulary says otherwise."""

import re
import string
import unicodedata
from collections.abc import Iterator, Sequence
from functools import lru_cache, partial

from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

from .files import StrPath
from .vocabulary import PASSAGE_SEPARATOR, SPECIAL_PIECES, UNCASED, VOCAB, Normalization, read_normalization, read_vocabulary


def make_tokenizer(pieces: Sequence[str], normalization: Normalization = UNCASED) -> Tokenizer:
    """What transformers' BertTokenizer sets up, without the cost of importing it; puts no [CLS] or [SEP] around.

    Args:
        pieces: the vocabulary in the order of its ids, BERT's special pieces among them.
        normalization: of the text; default: lower case, without accents.
    """
    vocab = {piece: index for index, piece in enumerate(pieces)}
    tokenizer = Tokenizer(models.WordPiece(vocab, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(
        lowercase=normalization.do_lower_case,
        strip_accents=normalization.strip_accents,
        handle_chinese_chars=normalization.tokenize_chinese_chars,
    )
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.add_special_tokens([piece for piece in (*SPECIAL_PIECES, PASSAGE_SEPARATOR) if piece in vocab])
    return tokenizer


class WordPieces:
    """Splits a line into BERT word pieces, joined by blanks, as `BertTokenizer` does.

    `[X_SEP]` stays one piece, like BERT's own special pieces, where the vocabulary has it.

    BERT never looks beyond a blank, so a line's pieces are those of its words one after another, and
    most words of a text have been met before: looking them up is several times as fast as splitting them.
    """

    def __init__(self, pieces: Sequence[str], normalization: Normalization = UNCASED) -> None:
        """
        Args:
            pieces: the vocabulary in the order of its ids, BERT's special pieces among them.
            normalization: of the text; default: lower case, without accents.
        """
        self._tokenizer = make_tokenizer(pieces, normalization)
        self._cuts = _cuts(normalization.tokenize_chinese_chars)
        self._split = partial(_split, self._tokenizer)  # no method: the cache of one would keep this object alive
        self._split_known = lru_cache(maxsize=1 << 17)(self._split)

    def __call__(self, line: str) -> str:
        return " ".join(filter(None, map(self._pieces_of_word, line.split(" "))))

    def pieces(self, line: str) -> Iterator[str]:
        """The same pieces one after another. What lies behind those that are read is not split, however long it is."""
        for word in _words(line):
            for part in _parts(word, self._cuts):
                yield from self._pieces_of_word(part).split()

    def _pieces_of_word(self, word: str) -> str:
        # Long "words" (base64, a whole Chinese sentence) seldom return and would fill the memory.
        return self._split_known(word) if len(word) <= 64 else self._split(word)


_PART = 4096
"""Characters that are split at once of what has no blank, as a Chinese text."""


def _words(line: str) -> Iterator[str]:
    """What stands between blanks, without a list of all of them."""
    start = 0
    while (end := line.find(" ", start)) >= 0:
        if end > start:
            yield line[start:end]
        start = end + 1
    yield line[start:]


def _parts(word: str, cuts: re.Pattern[str]) -> Iterator[str]:
    """A long word in parts that have the same pieces: cut before characters where BERT cuts too."""
    start = 0
    while len(word) - start > _PART:
        cut = cuts.search(word, start + _PART)
        if cut is None:
            break
        yield word[start : cut.start()]
        start = cut.start()
    yield word[start:]


@lru_cache(maxsize=2)
def _cuts(ideographs: bool) -> re.Pattern[str]:
    """Characters before which BERT splits wherever they stand: white space, punctuation, and `ideographs` where they are words.

    Of `]` and `_`, which end special pieces or stand in them, those behind their like. Newer punctuation is left out: the
    tokenizer's tables are old.
    """
    old, new = unicodedata.ucd_3_2_0.category, unicodedata.category
    of_unicode = "".join(c for c in map(chr, range(128, 1 << 16)) if old(c)[0] == new(c)[0] == "P" or old(c) == new(c) == "Zs")
    certain = string.punctuation.replace("]", "").replace("_", "") + "\t\n\r" + of_unicode
    chinese = "\u4e00-\u9fff" if ideographs else ""
    return re.compile(rf"[{re.escape(certain)}{chinese}]|(?<=[\]_])[\]_]")


def _split(tokenizer: Tokenizer, word: str) -> str:
    return " ".join(tokenizer.encode(word, add_special_tokens=False).tokens)


@lru_cache(maxsize=1)
def load_word_pieces(vocab: StrPath = VOCAB) -> WordPieces:
    """Returns the splitter of a vocabulary file.

    Raises:
        FileNotFoundError, ValueError: see `read_vocabulary` and `read_normalization`.
    """
    return WordPieces(list(read_vocabulary(vocab)), read_normalization(vocab))
