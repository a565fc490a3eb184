"""Clean-up of hypotheses: from the word pieces that a model wrote to text.

Standard library only.
"""

import re
from collections.abc import Sequence

from .detokenize import detokenize

_SEP = re.compile(r" ?\[SEP\] ?")

_MARKERS = ("[X_SEP]", "[MASK]", "[PAD]")  # no words; [UNK] stays, which says that one is missing

# How often a mark may follow itself before it is the model that repeats: "c++", "test::deep", "wait ..."
_LONGEST_RUN = dict.fromkeys("+:-/_=&|<>()[]{}'`\"\\#!?*", 2) | {".": 3}


def clean_up(line: str, keep_repeats: bool = False) -> str:
    """Turns one hypothesis, word pieces joined by blanks, into words: the published clean-up.

    The steps, in this order: cut at the first `[SEP]` that follows a kept piece; drop `[SEP]` and `[CLS]`;
    drop a piece equal to the one before it; join the pieces of a word; drop a word equal to the one
    before it.

    Args:
        line: the hypothesis.
        keep_repeats: leave out the two steps that drop something equal.

    >>> clean_up("[CLS] the the cat ##s ##s sat [SEP] on")
    'the cats sat'
    """
    pieces = _kept_pieces(line)
    if keep_repeats:
        return _join(pieces)
    return " ".join(_without_repeats(_join(_without_repeats(pieces)).split(" ")))


def to_text(line: str, keep_repeats: bool = False, source: str = "") -> str:
    """Turns one hypothesis, word pieces joined by blanks, into text for people, with blanks where they write them.

    Special pieces are left out, but for `[UNK]`.

    Args:
        line: the hypothesis; it ends as for `clean_up`.
        keep_repeats: keep what an autoregressive model wrote twice. Else repeats are taken for the habit of
            non-autoregressive models that they are, but for the marks in `c++`, `::` or `...`.
        source: the text that it was written for, which shows how its names are written.

    >>> to_text("the the c + + bin ##ding ##ding [SEP] on")
    'the c++ binding'
    """
    pieces = [piece for piece in _kept_pieces(line) if piece not in _MARKERS]
    if not keep_repeats:
        pieces = _without_repeats(_join(_without_repeats(pieces, _LONGEST_RUN)).split(" "), _LONGEST_RUN)
    return detokenize(" ".join(pieces), source)


def dropped(pieces: Sequence[str]) -> list[bool]:
    """Which word pieces of a text `to_text` drops as repeats, of pieces and then of words."""
    words: list[list[int]] = []  # places of the pieces of each word
    plain = [place for place, piece in enumerate(pieces) if piece not in (*_MARKERS, "[SEP]", "[CLS]")]
    for index in _kept_places([pieces[place] for place in plain], _LONGEST_RUN):
        place = plain[index]
        if pieces[place].startswith("##") and words:
            words[-1].append(place)
        else:
            words.append([place])
    joined = [_join([pieces[place] for place in word]) for word in words]
    kept = {place for index in _kept_places(joined, _LONGEST_RUN) for place in words[index]}
    return [place in plain and place not in kept for place in range(len(pieces))]


def _kept_pieces(line: str) -> list[str]:
    for part in _SEP.split(line.strip()):
        pieces = [piece for piece in part.split(" ") if piece != "[CLS]"]
        if any(pieces):
            break
    return pieces


def _join(pieces: list[str]) -> str:
    return " ".join(pieces).replace(" ##", "")


def _without_repeats(tokens: list[str], longest_run: dict[str, int] | None = None) -> list[str]:
    """Cuts each run of equal tokens to one, or to what `longest_run` allows."""
    return [tokens[place] for place in _kept_places(tokens, longest_run or {})]


def _kept_places(tokens: Sequence[str], longest_run: dict[str, int]) -> list[int]:
    """Where the tokens stand that `_without_repeats` keeps."""
    kept, run = [], 0
    for place, token in enumerate(tokens):
        run = run + 1 if place and token == tokens[place - 1] else 1
        if run <= longest_run.get(token, 1):
            kept.append(place)
    return kept
