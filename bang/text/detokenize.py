"""Word pieces back to text for people: the inverse of tokenization, as far as there is one.

Word pieces say which of them make a word, but not where blanks stood around punctuation: `node . js`,
`c + +` and `don ' t` were `node.js`, `c++` and `don't`. A linear classifier decides, blank by blank from left
to right; research/make_blanks.py learned its weights, blanks.txt, from package descriptions, docstrings and manual
pages. A few rules of written English come first, where that text says too little: e-mail addresses, arithmetic,
abbreviations. What is ambiguous in itself stays a guess, `-` most of all (`high-level`, `library - documentation`).
Case stays as it is; bang/text/casing.py restores it.

Standard library only.
"""

import re
from collections.abc import Iterator, Sequence
from functools import lru_cache
from itertools import accumulate, pairwise
from pathlib import Path

from .vocabulary import VOCAB, read_vocabulary

BLANKS = Path(__file__).with_name("blanks.txt")


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_RUNS = re.compile(r"(?<!\S)([`*\-=.:+<>&|_/#~!?])(?: \1)+(?!\S)")  # marks that are written together: c++, ..., ``
_QUOTES = _words("\" ' ` `` * ** __")
_CLOSING = {")": "(", "]": "[", "}": "{", ">": "<"}
_OPENING = frozenset(_CLOSING.values())

_CONTRACTIONS = _words("s t re ve ll d m")  # after an apostrophe: "it's"
_ELISIONS = _words("o d l ol")  # before an apostrophe: "o'reilly"
_FUNCTION_WORDS = _words("a an and as at by each for from if in into is of on or that the this to use using via when with")
_BEFORE_A_SIGN = _words("am are be by from is of than to was were")  # "it was -5"
_ABBREVIATIONS = _words(  # a blank follows their dot
    "apr approx aug cf ch dec dr eq etc feb fig figs gen jan jr jul jun mr mrs ms nov oct pp prof resp sec sect sep sept st vol "
    "vs"
)
_BEFORE_AN_OPTION = _words("flag flags option options switch")  # "the option -v"
_ENDINGS = _words(  # of file names and hosts
    "ai app au c cc cfg cgi ch cn com conf cpp cs css csv dat de dev dll edu eu exe fr gov gz h hpp htm html ini io ip java jp "
    "jpeg jpg js json jsp log lua md net nl nz org pdf php pl pm png po ps py pyc rb rpm rs ru sh so sql src svg tar tex tgz ts "
    "tv txt tz uk us wav xml yaml yml zip"
)
_BEFORE_AN_ENDING = _FUNCTION_WORDS | _words("convert create handle load open parse read save some write")  # "read .zip files"
_INITIALS = {tuple(name) for name in _words("ad aka am bc eg ie pm uk us")}  # "a.m.", "i.e."
_BEGINNINGS = _words("an he i if it in she so that the then there these they this we when you")  # of sentences
_NO_NAMES = _words("a an and as at by contact email for from in is it mail me of on or the to us via with write you")
_AFTER_A_YEAR = _words("based compatible compliant era like present safe style")  # "2020-era"


def detokenize(pieces: str, source: str = "") -> str:
    """Turns word pieces into text with blanks where people write them.

    Args:
        pieces: word pieces joined by blanks; what is a word already stays one.
        source: the text that they were written for. A mark between two words is written as the source has it.

    >>> detokenize("node . js bin ##ding ( http ) for c + + ; don ' t use test : : deep")
    "node.js binding (http) for c++; don't use test::deep"
    """
    written, weights = split_words(pieces), _weights()
    words = [word.lower() for word in written]  # a cased vocabulary's blanks stand where others' do
    rules, line = _as_in_source(words, source) | _rules(words), Line(words)
    for index in range(1, len(words)):
        blank = rules.get(index)
        if blank is None:
            blank = line.is_open(index) or sum(weights.get(feature, 0.0) for feature in line.features(index)) > 0
        line.add(blank)
    return "".join(f" {word}" if blank else word for word, blank in zip(written, line.blanks))


def split_words(pieces: str) -> list[str]:
    """The words and marks of word pieces; a run of one mark that is written together is one: `++`."""
    joined = " ".join(pieces.replace(" ##", "").split())
    return _RUNS.sub(lambda run: run[0].replace(" ", ""), joined).split()


class Line:
    """The words and marks of a line, and what is known where the next blank is decided.

    Attributes:
        words: the words and marks.
        blanks: for each word so far whether a blank stands before it.
    """

    def __init__(self, words: Sequence[str]) -> None:
        self.words, self.blanks = words, [False]
        self._kinds = ["^", "^", *map(_kind, words), "$", "$", "$"]
        self._padded = ["^", "^", *words, "$", "$", "$"]
        self._sides = _quote_sides(words)
        self._brackets: list[str] = []  # those that are open, with whether they are a call's
        self._is_head = True  # one word so far, or several with commas between
        self._in_code = False
        self._dashes = 0  # with blanks
        total = words.count("-")
        self._hyphens_after = [total - count for count in accumulate(word == "-" for word in words)]

    def is_open(self, index: int) -> bool:
        """Whether two words meet before word `index`: a blank, and nothing to decide."""
        return not (is_mark(self.words[index]) or is_mark(self.words[index - 1]))

    def add(self, blank: bool) -> None:
        """Says whether a blank stands before the next word."""
        index = len(self.blanks)
        before = self.words[index - 1]
        self.blanks.append(blank)
        if before in _OPENING:
            self._brackets.append(before + ("" if index < 2 or self.blanks[index - 1] else "c"))
        elif self._brackets and _CLOSING.get(before) == self._brackets[-1][0]:
            self._brackets.pop()
        if before in ("`", "``"):
            self._in_code = self._sides.get(index - 1) == "o"
        self._dashes += blank and before == "-"
        if blank and before != ",":
            self._is_head = False

    def features(self, index: int) -> Iterator[str]:
        """What is known of the blank before word `index`, a name for each fact."""
        at = index + 2  # in the padded lists
        w, k = self._padded, self._kinds
        left, right = self._name(at - 1), self._name(at)
        pair = f"{left} {right}"
        before, after = k[at - 2], k[at + 1]
        state = f"{self._brackets[-1] if self._brackets else '-'}{'k' if self._in_code else ''}"
        was = "b" if self.blanks[-1] else "j"
        yield f"p {pair}"
        yield f"w {w[at - 1]} {w[at]}"
        yield f"l {before} {pair}"
        yield f"r {pair} {after}"
        yield f"lr {before} {pair} {after}"
        yield f"L {k[at - 3]} {before} {pair}"
        yield f"R {pair} {after} {k[at + 2]}"
        yield f"b {was} {pair}"
        yield f"bl {was} {before} {pair}"
        yield f"br {was} {pair} {after}"
        yield f"s {state} {pair}"
        yield f"sr {state} {pair} {after}"
        if self._is_head:
            yield f"h {pair}"
            yield f"hk {before} {pair} {after}"
            yield f"hw {w[at - 1]} {right} {after}"
            yield f"hr {pair} {w[at + 1]}"
        if right == "-":
            yield f"d {'h' if self._is_head else 'n'} {min(self._hyphens_after[index], 2)} {k[at - 1]} {after}"
            yield f"c {was} {before} {left} {after} {k[at + 2]}"
            yield f"s {self._dashes} {'h' if self._is_head else 'n'}"
            yield f"w2 {w[at - 2]} {w[at - 1]} -"
            yield f"dn {'h' if self._is_head else 'n'} {min((len(w) - at) // 3, 4)} {k[at - 1]} {after}"
        if is_mark(w[at - 1]):
            yield f"wl {w[at - 2]} {pair}"
            yield f"bw {was} {left} {w[at]}"
            yield f"wb {was} {w[at - 2]} {left}"
        if is_mark(w[at]):
            yield f"wr {pair} {w[at + 1]}"
            yield f"ww {right} {w[at + 1]}"
            yield f"w3 {right} {w[at + 1]} {w[at + 2]}"
            yield f"lwr {w[at - 1]} {right} {after}"
            yield f"R3 {right} {after} {k[at + 2]} {k[at + 3]}"
        if w[len(w) - 4] in (".", "!", "?"):
            yield f"e {pair}"

    def _name(self, at: int) -> str:
        return self._kinds[at] + self._sides.get(at - 2, "")


def is_mark(word: str) -> bool:
    """Whether a word is punctuation."""
    return not word[0].isalnum() and not word.startswith("##") and not (len(word) > 2 and word[0] == "[")


def _kind(word: str) -> str:
    """A mark itself, else the sort of word: what stands for all words alike."""
    if is_mark(word):
        return word
    if word.isdigit():
        return "D" if len(word) < 3 else "DDD" if len(word) == 3 else "DDDD"
    if len(word) == 1:
        return "A"
    if any(letter.isdigit() for letter in word):
        return "AD"
    return ("W" if word in _common_words() else "U") + ("s" if word.endswith("s") else "")


def _quote_sides(words: Sequence[str]) -> dict[int, str]:
    """For each quote that has a partner whether it opens (o) or closes (c)."""
    sides: dict[int, str] = {}
    for mark in _QUOTES:
        places = [index for index, word in enumerate(words) if word == mark and not _is_apostrophe(words, index)]
        for number, (place, end) in enumerate(zip(places, [*places[1:], None])):
            if number % 2 == 0 and end is not None and not (mark == "__" and "," in words[place:end]):
                sides |= {place: "o", end: "c"}
    return sides


def _is_apostrophe(words: Sequence[str], index: int) -> bool:
    before, after = (words[place] if 0 <= place < len(words) else "" for place in (index - 1, index + 1))
    if words[index] != "'" or not before.isalnum():
        return False
    return after in _CONTRACTIONS or (before in _ELISIONS and after.isalnum()) or after == "em"


def _as_in_source(words: Sequence[str], source: str) -> dict[int, bool]:
    """Blanks around a mark between two words, where the source has all three and always in one way."""
    found: dict[int, bool] = {}
    source = f" {' '.join(source.lower().split())} "
    for index, mark in enumerate(words[1:-1], start=1):
        before, after = words[index - 1], words[index + 1]
        if not is_mark(mark) or is_mark(before) or is_mark(after) or before not in source or after not in source:
            continue
        written = re.findall(rf"(?<!\w){re.escape(before)}( ?){re.escape(mark)}( ?){re.escape(after)}(?!\w)", source)
        broken = mark == "-" and written and written[0][0] != written[0][1]  # at the end of a line, say
        if len(set(written)) == 1 and not broken:
            found |= {index: bool(written[0][0]), index + 1: bool(written[0][1])}
    return found


def _rules(words: Sequence[str]) -> dict[int, bool]:
    """What is sure, whatever the weights say: {index of a word: whether a blank stands before it}."""
    found, sides = _sums(words), _quote_sides(words)
    inside = range(0)  # of braces: "{a,b}", but "{a: 1, b: 2}"
    if "{" in words and "}" in words and ":" not in words:
        inside = range(words.index("{"), len(words) - words[::-1].index("}"))
    for index, (before, word) in enumerate(pairwise(words), start=1):
        if word in (",", ";") or (before == "," and index in inside) or (_is_ideograph(before) and _is_ideograph(word)):
            found[index] = False
    for index, word in enumerate(words):
        before, after = _at(words, index - 1), _at(words, index + 1)
        if word == "_" and before.isalnum() and after.isalnum() and before not in _FUNCTION_WORDS:  # an identifier, and its call
            found[index] = found[index + 1] = False
            if _at(words, index + 2) == "(":
                found[index + 2] = False
        elif word == "'" and after != "em" and _is_apostrophe(words, index):
            found |= {index: False, index + 1: False}
        elif word == "&" and before.isalpha() and after.isalpha() and len(before) <= 2 and len(after) == 1:  # at&t
            found |= {index: False, index + 1: False}
        elif word == "__" and index in sides:  # __init__
            found[index + (sides[index] == "o")] = False
            if sides[index] == "o" and before.isalnum():
                found[index] = True
            elif sides[index] == "c" and after.isalnum():
                found[index + 1] = True
        elif word == "]" and after.isalpha() or word == "}" and after == "[":
            found[index + 1] = True
        elif word in ("?", "!") and before.isalnum() and after.isalnum() and _at(words, index + 2) != "=":
            found |= {index: False, index + 1: True}
        elif word == "..." and before.isalnum() and after.isalnum():
            found |= {index: False, index + 1: True}
        elif word == "[" and len(before) == 1 and before.isalpha() and after.isdigit() and _at(words, index + 2) == "]":
            found[index] = False  # a[0]
        elif word == "@":
            found |= _address(words, index)
        elif word == ".":
            found |= _dot(words, index, before, after)
        elif word == "-" and after:
            is_year = len(before) == 4 and before.isdigit() and before[:2] in ("19", "20")
            if before in (_BEFORE_A_SIGN if after[0].isdigit() else _BEFORE_AN_OPTION):
                found |= {index: True, index + 1: False}
            elif is_year and after in _common_words() and after.isalpha() and after not in _AFTER_A_YEAR:
                found |= {index: True, index + 1: True}
    if len(words) > 1 and words[-1] in (".", "!", "?") and not (words[-2] in _QUOTES or words[-2] in _SIGNS):
        found[len(words) - 1] = False
    return found


def _at(words: Sequence[str], index: int) -> str:
    return words[index] if 0 <= index < len(words) else ""


def _dot(words: Sequence[str], index: int, before: str, after: str) -> dict[int, bool]:
    letters: list[str] = []  # of "e.g." and its like, back from this dot
    while len(letters) < 3 and len(letter := _at(words, index - 2 * len(letters) - 1)) == 1 and letter.isalpha():
        if letters and _at(words, index - 2 * len(letters)) != ".":
            break
        letters.insert(0, letter)
    for count in range(2, len(letters) + 1):
        if tuple(letters[-count:]) in _INITIALS:
            inside = range(index - 2 * count + 2, index + 1)
            return dict.fromkeys(inside, False) | ({index + 1: True} if after[:1].isalnum() else {})
    if not (after[:1].isalnum() and before[-1:].isalnum()):
        return {}
    if before in _ABBREVIATIONS and _at(words, index - 2) != "/" or before == "no" and after.isdigit():
        return {index: False, index + 1: True}
    if before in _BEFORE_AN_ENDING and after in _ENDINGS:
        return {index: True, index + 1: False}
    if before not in _common_words() or len(before) == 1 or _at(words, index + 2) in ("(", "/", "_"):
        return {}
    is_prose = words[-1] in (".", "!", "?") and "." not in (
        _at(words, index - 2),
        _at(words, index + 2) if index + 3 < len(words) else "",
    )
    if after in _BEGINNINGS or (
        is_prose and before.isalpha() and after in _common_words() and after.isalpha() and after not in _ENDINGS
    ):
        return {index: False, index + 1: True}
    return {}


def _address(words: Sequence[str], index: int) -> dict[int, bool]:
    """john.doe@example.org: all is joined from the first part of the name to the last of the host."""
    first, last = index, index
    while _at(words, first - 1).isalnum() and _at(words, first - 1) not in _NO_NAMES:
        first -= 1
        if _at(words, first - 1) not in (".", "-", "_", "+"):
            break
        first -= 1
    if first < index and not _at(words, first).isalnum():
        first += 1  # the mark before belongs to what is written there
    while _at(words, last + 1).isalnum():
        last += 1
        if _at(words, last + 1) not in (".", "-") or not _at(words, last + 2).isalnum() or _at(words, last + 2) in _BEGINNINGS:
            break
        last += 1
    return dict.fromkeys(range(first + 1, last + 1), False) if first < index < last else {}


def _sums(words: Sequence[str]) -> dict[int, bool]:
    """1 + 1 = 2: blanks around every sign of an equation of numbers and letters."""
    found: dict[int, bool] = {}
    start = 0
    while start < len(words):
        end = start
        while _is_operand(words[start]) and _at(words, end + 1) in _SIGNS and _is_operand(_at(words, end + 2)):
            end += 2
        if end - start >= 4 and "=" in words[start:end]:
            found |= dict.fromkeys(range(start + 1, end + 1), True)
        start = end + 1
    return found


_SIGNS = _words("+ - * / = ×")


def _is_operand(word: str) -> bool:
    return word.isdigit() or (len(word) == 1 and word.isalpha())


def _is_ideograph(word: str) -> bool:
    """Whether the tokenizer took this character out of a text that has no blanks."""
    return len(word) == 1 and ("\u3400" <= word <= "\u9fff" or "\uf900" <= word <= "\ufaff" or word >= "\U00020000")


@lru_cache(maxsize=1)
def _common_words() -> frozenset[str]:
    """Words that are one piece of the published vocabulary; others are rare, names most of all."""
    return frozenset(read_vocabulary(VOCAB))


@lru_cache(maxsize=1)
def _weights() -> dict[str, float]:
    """What each fact says for a blank: positive, and against one: negative."""
    rows = (line.rpartition(" ") for line in BLANKS.read_text(encoding="utf-8").splitlines() if not line.startswith("# "))
    return {feature: float(weight) for feature, _, weight in rows}
