"""Capitals for lower-case texts, from each text's source and a table of the training targets.

A word takes one of its forms in either of them, or that of a name, `Word`. A log-linear model chooses word by word, from left
to right, by these facts: how often the targets have the form, alone and beside this neighbour; whether the source has it; and
whether it begins a sentence there, where capitals say little. research/fit_casing.py found the weights. The first word is
written as the targets begin.

Nothing but case changes: `restored.lower() == text.lower()`. Standard library only.
"""

import math
import os
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property

from ..errors import UserError
from .files import StrPath, read_lines, replacing

CASING_FILE = "casing.tsv"
"""Name of the table in a model's folder, or beside a checkpoint."""
NO_CASING = "none"
"""Given instead of a file: no table."""

_WORD = re.compile(r"[^\W_]+")
_START, _END = "^", "$"  # neighbours of the first and the last word
_SENTENCE_ENDS = frozenset(".!?:*")
_PRIOR = {"lower": 0.6, "Title": 0.25, "UPPER": 0.1, "miXed": 0.05}  # shares of the shapes without a table
_PRIOR_COUNT, _PAIR_COUNT = 0.5, 2.0  # weights, in observations, of the prior and of a word alone
_HEADER = "# cased forms of training targets: form, times inside a text, times at its beginning; before, form, after, times"

WEIGHTS = {
    "Title": -0.42, "UPPER": 0.21, "after a name Title": 1.32, "after a name UPPER": -0.07, "after a name lower": -1.19,
    "after a name miXed": -0.15, "alone": -0.46, "lower": 0.41, "miXed": 0.03, "pair 0": 0.66, "pair 1": 0.58,
    "source Title": 3.07, "source UPPER": 3.02, "source alone Title": 4.27, "source alone UPPER": 2.14,
    "source alone lower": 0.98, "source alone miXed": 2.13, "source begins Title": 0.93, "source begins UPPER": 1.07,
    "source begins alone Title": 2.28, "source begins alone UPPER": 1.43, "source begins alone lower": 0.91,
    "source begins alone miXed": 1.23, "source begins lower": 0.64, "source begins miXed": 1.22, "source lower": 0.78,
    "source miXed": 3.04, "unknown Title": -1.07, "unknown UPPER": 1.81, "unknown lower": -1.19, "unknown miXed": 2.41,
    "first Title": 0.03, "first UPPER": 0.37, "first alone": 0.03, "first lower": -0.26, "first miXed": 0.33,
    "first pair 0": 0.66, "first source Title": 1.46, "first source UPPER": 2.00, "first source alone Title": 2.40,
    "first source alone UPPER": 1.91, "first source alone lower": 0.49, "first source alone miXed": 1.67,
    "first source begins Title": 0.25, "first source begins UPPER": 1.18, "first source begins alone Title": 0.87,
    "first source begins alone UPPER": 1.17, "first source begins alone lower": 0.83, "first source begins alone miXed": 1.59,
    "first source begins lower": 0.44, "first source begins miXed": 0.67, "first source lower": 0.37,
    "first source miXed": 2.09, "first unknown Title": -0.82, "first unknown UPPER": 0.76, "first unknown lower": -0.49,
    "first unknown miXed": 1.47, "first within": 0.13,
}  # fmt: skip
"""The weight of each fact; names with `first` are for a text's first word."""

_Forms = Mapping[str, int]
_NONE: _Forms = {}


def shape(form: str) -> str:
    """The shape of a form, a key of `_PRIOR`."""
    lower = form.lower()
    if form == lower:
        return "lower"
    if len(form) > 1 and form == form.upper():
        return "UPPER"
    return "Title" if form[1:] == lower[1:] else "miXed"


class Casing:
    """A table of how words are written, their forms.

    Attributes:
        inside, first: {word: {form: count}}, of words within a text and at its beginning.
        pairs: {(before, word, after): {form: count}}, of words with one neighbour; the other one is "".
    """

    def __init__(self) -> None:
        self.inside: dict[str, Counter[str]] = defaultdict(Counter)
        self.first: dict[str, Counter[str]] = defaultdict(Counter)
        self.pairs: dict[tuple[str, str, str], Counter[str]] = defaultdict(Counter)

    @classmethod
    def count(cls, texts: Iterable[str], least: int = 2) -> "Casing":
        """Counts the forms of some texts.

        Args:
            least: how often a pair has to occur. Left out are pairs that mostly have the word's usual form, and words
                seen once, in lower case: they would make the table ten times as long.
        """
        table = cls()
        for text in texts:
            words = _WORD.findall(text)
            lower = [_START, *map(str.lower, words), _END]
            for index, form in enumerate(words):
                before, word, after = lower[index : index + 3]
                if index == 0:
                    table.first[word][form] += 1
                    table.pairs[_START, word, after][form] += 1
                else:
                    table.inside[word][form] += 1
                    table.pairs[before, word, ""][form] += 1
                    table.pairs["", word, after][form] += 1
        table._prune(least)
        return table

    def _prune(self, least: int) -> None:
        for key, forms in list(self.pairs.items()):
            alone = (self.first if key[0] == _START else self.inside).get(key[1], _NONE)
            if forms.total() < least or _most(forms) == _most(alone):
                del self.pairs[key]
        for table, other in ((self.inside, self.first), (self.first, self.inside)):
            for word, forms in list(table.items()):
                if forms == {word: 1} and word not in other:
                    del table[word]

    def save(self, path: StrPath) -> None:
        """Writes the table: text with tabs, the most frequent words first."""
        counted: Counter[str] = Counter()
        for words in (self.inside, self.first):
            counted.update({word: forms.total() for word, forms in words.items()})
        with replacing(path) as file:
            file.write(f"{_HEADER}\n".encode())
            for word in sorted(counted, key=lambda word: (-counted[word], word)):
                inside, first = self.inside.get(word, _NONE), self.first.get(word, _NONE)
                for form in sorted(inside.keys() | first.keys()):
                    file.write(f"{form}\t{inside.get(form, 0)}\t{first.get(form, 0)}\n".encode())
            for (before, _, after), forms in sorted(self.pairs.items()):
                for form, count in sorted(forms.items()):
                    file.write(f"{before}\t{form}\t{after}\t{count}\n".encode())

    @classmethod
    def load(cls, path: StrPath) -> "Casing":
        """Reads a table.

        Raises:
            FileNotFoundError, ValueError: no such file, or not such a table; one line.
        """
        if not os.path.exists(path):
            raise FileNotFoundError(f"{path}: no such table of cased forms; make one with bang casing")
        table = cls()
        for number, line in enumerate(read_lines(path), start=1):
            if number == 1 and line == _HEADER:
                continue
            parts = line.split("\t")
            try:
                if number == 1 or len(parts) not in (3, 4):
                    raise ValueError
                if len(parts) == 3:
                    form = parts[0]
                    for forms, count in zip((table.inside, table.first), map(_count, parts[1:])):
                        if count:
                            forms[form.lower()][form] += count
                else:
                    before, form, after = parts[:3]
                    table.pairs[before, form.lower(), after][form] += _count(parts[3])
            except ValueError:
                raise UserError(f"{path}, line {number}: no table of cased forms; make one with bang casing") from None
        return table

    @cached_property
    def shapes(self) -> tuple[dict[str, float], dict[str, float]]:
        """The shares of the shapes among words within texts, and among first words."""
        return _shares(self.inside), _shares(self.first)

    def restore(self, text: str, source: str = "") -> str:
        """Gives a lower-case text capitals.

        Args:
            text: words with capitals stay unchanged.
            source: the text that it was generated from.

        >>> Casing().restore("xsl compiler for python", "A compiler of XSL. It is written in Python.")
        'XSL compiler for Python'
        """
        forms = SourceForms(source)
        words = list(_WORD.finditer(text))
        lower = [_START, *(word[0].lower() for word in words), _END]
        restored: list[str] = []
        end, before_is_odd = 0, False
        for index, word in enumerate(words):
            form = word[0]
            if form == lower[index + 1]:
                best = -math.inf
                for candidate, facts in self.candidates(lower[index : index + 3], forms, before_is_odd):
                    score = sum(WEIGHTS.get(name, 0.0) * value for name, value in facts)
                    if score > best:
                        form, best = candidate, score
            before_is_odd = self.is_odd(form)
            restored += text[end : word.start()], form
            end = word.end()
        whole = "".join([*restored, text[end:]])
        return whole if whole.lower() == text.lower() else text  # Greek: a sigma's lower case depends on its neighbours

    def candidates(
        self, around: list[str], source: "SourceForms", before_is_odd: bool
    ) -> Iterator[tuple[str, list[tuple[str, float]]]]:
        """Yields the forms that a word may take, lower case first, each with its facts (names and values).

        Args:
            around: the words before, here and after, in lower case.
            before_is_odd: whether the word before is written as a name (`is_odd`).
        """
        before, word, after = around
        is_first = before == _START
        prefix = "first " if is_first else ""
        inside, first = self.inside.get(word, _NONE), self.first.get(word, _NONE)
        within, begins = source.inside.get(word, _NONE), source.first.get(word, _NONE)
        alone, shares = (first, self.shapes[1]) if is_first else (inside, self.shapes[0])
        keys = [(_START, word, after)] if is_first else [(before, word, ""), ("", word, after)]
        pairs = [self.pairs.get(key, _NONE) for key in keys]
        for form in dict.fromkeys([word, word[:1].upper() + word[1:], *inside, *first, *within, *begins]):
            if form.lower() != word:
                continue
            kind = shape(form)
            p = _smoothed(alone, form, shares[kind], _PRIOR_COUNT)
            facts = [(kind, 1.0), ("alone", math.log(p))]
            facts += [(f"pair {number}", math.log(_smoothed(pair, form, p, _PAIR_COUNT))) for number, pair in enumerate(pairs)]
            if is_first and inside:
                facts.append(("within", math.log(_smoothed(inside, form, self.shapes[0][kind], _PRIOR_COUNT))))
            if not alone:
                facts.append((f"unknown {kind}", 1.0))
            if within:
                share = within.get(form, 0) / sum(within.values())
                facts.append((f"source {kind}" if alone else f"source alone {kind}", share))
            if begins:
                share = begins.get(form, 0) / sum(begins.values())
                facts.append((f"source begins {kind}" if alone or within else f"source begins alone {kind}", share))
            if before_is_odd:
                facts.append((f"after a name {kind}", 1.0))
            yield form, [(prefix + name, value) for name, value in facts]

    def is_odd(self, form: str) -> bool:
        """Whether a common word is written as a name; the next word is then likely to be part of it."""
        forms = self.inside.get(form.lower(), _NONE)
        return shape(form) == "Title" and forms.get(form.lower(), 0) > forms.get(form, 0)


class SourceForms:
    """The forms of a source's words.

    Attributes:
        inside, first: {word: {form: count}}, within its sentences and at their beginnings.
    """

    def __init__(self, source: str) -> None:
        self.inside: dict[str, Counter[str]] = defaultdict(Counter)
        self.first: dict[str, Counter[str]] = defaultdict(Counter)
        end = 0
        for found in _WORD.finditer(source):
            marks = source[end : found.start()].rstrip(" \"'(`*-")
            begins = not end or marks[-1:] in _SENTENCE_ENDS and bool(marks)
            (self.first if begins else self.inside)[found[0].lower()][found[0]] += 1
            end = found.end()


def _shares(words: Mapping[str, _Forms]) -> dict[str, float]:
    counts: Counter[str] = Counter()
    for forms in words.values():
        for form, count in forms.items():
            counts[shape(form)] += count
    return {kind: (counts[kind] + share) / (counts.total() + 1) for kind, share in _PRIOR.items()}


def _count(digits: str) -> int:
    if not digits.isdecimal() or len(digits) > 15:
        raise ValueError
    return int(digits)


def _smoothed(forms: _Forms, form: str, prior: float, weight: float) -> float:
    """The share of a form, with a prior that counts as `weight` observations."""
    return (forms.get(form, 0) + weight * prior) / (sum(forms.values()) + weight)


def _most(forms: _Forms) -> str:
    return max(forms, key=lambda form: (forms[form], form), default="")


def find_casing(folder: StrPath, casing: StrPath | None = None) -> Casing | None:
    """The table of a model.

    Args:
        folder: the model's; its `CASING_FILE` is the default.
        casing: a file to use instead; `NO_CASING`: none.

    Raises:
        FileNotFoundError, ValueError: see `Casing.load`.
    """
    if casing is not None:
        return None if casing == NO_CASING else Casing.load(casing)
    path = os.path.join(folder, CASING_FILE)
    return Casing.load(path) if os.path.exists(path) else None
