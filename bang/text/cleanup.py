"""Clean-up of hypotheses: from the word pieces of a non-autoregressive model to text.

Standard library only: `post_processed_nar.py` loads this file by its path.
"""

import re

_SEP = re.compile(r" ?\[SEP\] ?")


def clean_up(line: str) -> str:
    """Turns one hypothesis, word pieces joined by blanks, into words without immediate repeats.

    The steps, in this order: cut at the first `[SEP]` that follows a kept piece; drop `[SEP]` and `[CLS]`;
    drop a piece equal to the one before it; join the pieces of a word; drop a word equal to the one
    before it.

    >>> clean_up("[CLS] the the cat ##s ##s sat [SEP] on")
    'the cats sat'
    """
    for part in _SEP.split(line.strip()):
        pieces = [piece for piece in part.split(" ") if piece != "[CLS]"]
        if any(pieces):
            break
    words = " ".join(_without_repeats(pieces)).replace(" ##", "")
    return " ".join(_without_repeats(words.split(" ")))


def _without_repeats(tokens: list[str]) -> list[str]:
    return [token for before, token in zip([None] + tokens, tokens) if token != before]
