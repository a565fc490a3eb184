"""The tokenizer in `transformers`: our word pieces with the ids that the weights have."""

from collections.abc import Sequence
from pathlib import Path

from tokenizers import Tokenizer, decoders, processors
from transformers import PreTrainedTokenizerFast

from ..errors import UserError
from ..text.files import StrPath
from ..text.vocabulary import PASSAGE_SEPARATOR, UNCASED, Normalization
from ..text.wordpieces import make_tokenizer

TOKENIZER = "tokenizer.json"


def build_tokenizer(
    pieces: Sequence[str], max_source_positions: int, normalization: Normalization = UNCASED
) -> PreTrainedTokenizerFast:
    """Makes the tokenizer of a vocabulary.

    It ends a text with `[SEP]` and puts no `[CLS]` in front, as in BANG's sources and targets. (`BertTokenizer` adds both, and
    uses a vocabulary of its own if it finds no `vocab.txt` in BERT's format.)

    Args:
        pieces: in the order of their ids.
        max_source_positions: what `truncation=True` cuts to.
        normalization: how texts are normalized; saved in tokenizer_config.json.
    """
    tokenizer = make_tokenizer(pieces, normalization)
    between = PASSAGE_SEPARATOR if PASSAGE_SEPARATOR in pieces else "[SEP]"
    specials = [(piece, pieces.index(piece)) for piece in dict.fromkeys((between, "[SEP]"))]
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A [SEP]", pair=f"$A {between} $B [SEP]", special_tokens=specials
    )
    tokenizer.decoder = decoders.WordPiece(prefix="##")
    roles = dict(bos="[CLS]", cls="[CLS]", eos="[SEP]", sep="[SEP]", pad="[PAD]", unk="[UNK]", mask="[MASK]")
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, **{f"{role}_token": piece for role, piece in roles.items()},
        model_max_length=max_source_positions, model_input_names=["input_ids", "attention_mask"], padding_side="right",
        **vars(normalization),
    )  # fmt: skip


def read_pieces(folder: StrPath) -> list[str]:
    """The vocabulary of a folder's tokenizer, in the order of its ids.

    Raises:
        FileNotFoundError, ValueError: it is missing, not a tokenizer, or its ids have gaps; one line.
    """
    path = Path(folder, TOKENIZER)
    if not path.is_file():
        raise FileNotFoundError(f"{folder}: lacks {TOKENIZER}; copy the complete folder")
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # tokenizers raises nothing narrower
        raise UserError(f"{path}: no tokenizer can be read from it ({error})") from None
    by_id = {index: piece for piece, index in tokenizer.get_vocab().items()}
    if sorted(by_id) != list(range(len(by_id))):
        raise UserError(f"{path}: its ids do not run from 0 to {len(by_id) - 1}: it is not a model's of bang")
    return [by_id[index] for index in range(len(by_id))]
