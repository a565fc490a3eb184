"""Makes BANG's vocab.txt from the vocabulary file of bert-base-uncased.

    python research/make_vocab.py bert-base-uncased/vocab.txt vocab.txt

The pieces keep their order. Each line gets a count, which fairseq asks for, and [unused1] becomes
[X_SEP], the separator inside a source text.
"""

import argparse
import hashlib

from bang.errors import UserError, exit_on_mistakes
from bang.text import files

PUBLISHED_SHA256 = "4ee27a01daf6cab06276f3527c6a0472f36a120e2149d246fd947be6a7085d6e"
PIECES = 30522
POSITIONS = {0: "[PAD]", 2: "[unused1]", 100: "[UNK]", 101: "[CLS]", 102: "[SEP]", 103: "[MASK]"}


def make_vocab(bert_vocab: str, output: str) -> str:
    """Writes the vocabulary.

    Args:
        bert_vocab: bert-base-uncased's vocab.txt, one piece a line.
        output: the file to write, one `piece count` a line.

    Returns:
        The sha256 of what was written, in hexadecimal.

    Raises:
        ValueError: `bert_vocab` is not bert-base-uncased's vocabulary, or is `output`.
    """
    files.refuse_overwriting(output, [bert_vocab])
    pieces = list(files.read_lines(bert_vocab))
    for index, piece in POSITIONS.items():
        found = pieces[index] if index < len(pieces) else "nothing"
        if found != piece:
            raise UserError(
                f"{bert_vocab}, line {index + 1}: {found[:80]!r} where bert-base-uncased has {piece!r}: "
                "give the vocab.txt that comes with bert-base-uncased"
            )
    if len(pieces) != PIECES:
        raise UserError(
            f"{bert_vocab}: {len(pieces)} lines where bert-base-uncased has {PIECES}: "
            "give the vocab.txt that comes with bert-base-uncased"
        )
    pieces[2] = "[X_SEP]"
    lines = [f"{piece} {2 if piece in ('[UNK]', '[CLS]', '[SEP]') else 1}\n" for piece in pieces]
    data = "".join(lines).encode()
    with files.replacing(output) as file:
        file.write(data)
    return hashlib.sha256(data).hexdigest()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bert_vocab", metavar="BERT_VOCAB", help="bert-base-uncased's vocab.txt, one piece a line")
    parser.add_argument("output", metavar="OUT", help="the file to write, one 'piece count' a line")
    args = parser.parse_args()
    with exit_on_mistakes(parser.prog):
        sha256 = make_vocab(args.bert_vocab, args.output)
    print(f"{sha256}  {args.output}")
    if sha256 == PUBLISHED_SHA256:
        print("the same as the published vocabulary")
    else:
        print("NOT the published vocabulary: its checkpoints and data do not fit this one")


if __name__ == "__main__":
    main()
