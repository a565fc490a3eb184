"""Lower-cased BERT word pieces of a line of text."""

from collections.abc import Sequence
from functools import lru_cache, partial

from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

from .files import StrPath
from .vocabulary import PASSAGE_SEPARATOR, SPECIAL_PIECES, VOCAB, read_vocabulary


def make_tokenizer(pieces: Sequence[str]) -> Tokenizer:
    """What transformers' BertTokenizer sets up, without the cost of importing it; puts no [CLS] or [SEP] around.

    Args:
        pieces: the vocabulary in the order of its ids, BERT's special pieces among them.
    """
    vocab = {piece: index for index, piece in enumerate(pieces)}
    tokenizer = Tokenizer(models.WordPiece(vocab, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.add_special_tokens([piece for piece in (*SPECIAL_PIECES, PASSAGE_SEPARATOR) if piece in vocab])
    return tokenizer


class WordPieces:
    """Splits a line into lower-cased BERT word pieces, joined by blanks, as `BertTokenizer` does.

    `[X_SEP]` stays one piece, like BERT's own special pieces, where the vocabulary has it.

    BERT never looks beyond a blank, so a line's pieces are those of its words one after another, and
    most words of a text have been met before: looking them up is several times as fast as splitting them.
    """

    def __init__(self, pieces: Sequence[str]) -> None:
        """
        Args:
            pieces: the vocabulary in the order of its ids, BERT's special pieces among them.
        """
        self._tokenizer = make_tokenizer(pieces)
        self._split = partial(_split, self._tokenizer)  # no method: the cache of one would keep this object alive
        self._split_known = lru_cache(maxsize=1 << 17)(self._split)

    def __call__(self, line: str) -> str:
        return " ".join(filter(None, map(self._pieces_of_word, line.split(" "))))

    def _pieces_of_word(self, word: str) -> str:
        # Long "words" (base64, a whole Chinese sentence) seldom return and would fill the memory.
        return self._split_known(word) if len(word) <= 64 else self._split(word)


def _split(tokenizer: Tokenizer, word: str) -> str:
    return " ".join(tokenizer.encode(word, add_special_tokens=False).tokens)


@lru_cache(maxsize=1)
def load_word_pieces(vocab: StrPath = VOCAB) -> WordPieces:
    """Returns the splitter of a vocabulary file.

    Raises:
        FileNotFoundError, ValueError: see `read_vocabulary`.
    """
    return WordPieces(list(read_vocabulary(vocab)))
