"""Capitals for lower-case texts, from each text's source and a table of the training targets.

A word takes one of its forms in either of them, or that of a name, `Word`. A log-linear model chooses word by word, from left
to right, by these facts: how often the training targets and their sources have the form, alone and beside this neighbour;
whether the text's source has it, there too, and whether it begins a sentence there, where capitals say little; the shapes of the
neighbours and the marks between; and whether the words are those of a short form, `Fast Light Toolkit` beside `FLTK`.
research/fit_casing.py found the weights, capitals.txt. The first word is written as the targets begin.

Nothing but case changes: `restored.lower() == text.lower()`. Standard library only.
"""

import math
import os
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property, lru_cache
from pathlib import Path

from ..errors import UserError
from .files import StrPath, read_lines, replacing

WEIGHTS = Path(__file__).with_name("capitals.txt")
CASING_FILE = "casing.tsv"
"""Name of the table in a model's folder, or beside a checkpoint."""
NO_CASING = "none"
"""Given instead of a file: no table."""

_WORD = re.compile(r"[^\W_]+")
_START, _END = "^", "$"  # neighbours of the first and the last word
_SENTENCE_ENDS = frozenset(".!?:*")
_PRIOR = {"lower": 0.6, "Title": 0.25, "UPPER": 0.1, "miXed": 0.05}  # shares of the shapes without a table
_PRIOR_COUNT, _PAIR_COUNT = 0.5, 2.0  # weights, in observations, of the prior and of a word alone
_HEADER = (
    "# cased forms of training targets: form, times inside a text, times at its beginning; before, form, after, times; "
    "of their sources: form, times"
)
_ANY_HEADER = "# cased forms of training targets: "  # earlier tables have targets alone

_Forms = Mapping[str, int]
_Pair = tuple[str, str, str]
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
        prose: {word: {form: count}}, of words within the sentences of sources; how many sources have the form.
    """

    def __init__(self) -> None:
        self.inside: dict[str, Counter[str]] = defaultdict(Counter)
        self.first: dict[str, Counter[str]] = defaultdict(Counter)
        self.pairs: dict[_Pair, Counter[str]] = defaultdict(Counter)
        self.prose: dict[str, Counter[str]] = defaultdict(Counter)

    @classmethod
    def count(cls, texts: Iterable[str], sources: Iterable[str] = (), least: int = 2) -> "Casing":
        """Counts the forms of some texts.

        Args:
            texts: the training targets.
            sources: their sources, whose names and usual words the targets may lack.
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
        for source in sources:
            found = SourceForms(source)
            for word, forms in found.inside.items():
                table.prose[word].update(forms.keys())
        table._prune(least)
        return table

    def _prune(self, least: int) -> None:
        for key, forms in list(self.pairs.items()):
            alone = (self.first if key[0] == _START else self.inside).get(key[1], _NONE)
            if forms.total() < least or _most(forms) == _most(alone):
                del self.pairs[key]
        for word, forms in list(self.prose.items()):
            if forms == {word: 1}:
                del self.prose[word]
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
            for _, forms in sorted(self.prose.items()):
                for form, count in sorted(forms.items()):
                    file.write(f"{form}\t{count}\n".encode())

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
            if number == 1 and line.startswith(_ANY_HEADER):
                continue
            parts = line.split("\t")
            try:
                if number == 1 or len(parts) not in (2, 3, 4):
                    raise ValueError
                if len(parts) == 2:
                    table.prose[parts[0].lower()][parts[0]] += _count(parts[1])
                elif len(parts) == 3:
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

    @cached_property
    def size(self) -> float:
        """How many words the table knows, on a scale from 0 for none to about 1."""
        return math.log1p(len(self.inside)) / 10

    def restore(self, text: str, source: str = "") -> str:
        """Gives a lower-case text capitals.

        Args:
            text: words with capitals stay unchanged.
            source: the text that it was generated from.

        >>> Casing().restore("xsl compiler for python", "A compiler of XSL. It is written in Python.")
        'XSL compiler for Python'
        """
        line, weights = Line(text, source, self), _weights()
        for index, form in enumerate(line.found):
            if form == line.words[index]:
                best = -math.inf
                for candidate, facts in line.candidates(index):
                    score = sum(weights.get(name, 0.0) * value for name, value in facts)
                    if score > best:
                        form, best = candidate, score
            line.written.append(form)
        whole = "".join(map(str.__add__, line.gaps, [*line.written, ""]))
        return whole if whole.lower() == text.lower() else text  # Greek: a sigma's lower case depends on its neighbours


class Line:
    """A text whose words get their forms from left to right.

    Attributes:
        found, words: its words, as they are and in lower case.
        gaps: what stands before each word, and after the last one.
        written: the forms of the words so far.
    """

    def __init__(self, text: str, source: str, table: Casing) -> None:
        self.found, self.gaps = _WORD.findall(text), _WORD.split(text)
        self.words = [word.lower() for word in self.found]
        self.written: list[str] = []
        self._table, self._source = table, SourceForms(source)
        self._spelled_out = _spelled_out(self.words, source)
        usual = [shape(_most(table.inside.get(word, _NONE))) for word in self.words]
        in_source = [shape(_most(self._source.inside.get(word, _NONE))) for word in self.words]
        self._usual, self._in_source = [*usual, _END], [*in_source, _END]

    def candidates(self, index: int) -> Iterator[tuple[str, list[tuple[str, float]]]]:
        """Yields the forms that a word may take, lower case first, each with its facts (names and values)."""
        table, source, word = self._table, self._source, self.words[index]
        is_first = index == 0
        before = _START if is_first else self.words[index - 1]
        after = self.words[index + 1] if index + 1 < len(self.words) else _END
        inside, first = table.inside.get(word, _NONE), table.first.get(word, _NONE)
        within, begins = source.inside.get(word, _NONE), source.first.get(word, _NONE)
        prose = table.prose.get(word, _NONE)
        alone, shares = (first, table.shapes[1]) if is_first else (inside, table.shapes[0])
        keys = [(_START, word, after)] if is_first else [(before, word, ""), ("", word, after)]
        pairs = [table.pairs.get(key, _NONE) for key in keys]
        beside = [("before", (before, word, "")), ("after", ("", word, after))]
        # what holds of the place, whatever the form
        facts_here = [
            f"next {self._usual[index + 1]}", f"next in source {self._in_source[index + 1]}", f"next{self.gaps[index + 1]}"
        ]  # fmt: skip
        if is_first:
            facts_here.append(f"words {min(len(self.words), 12)}")
        else:
            last = shape(self.written[-1])
            facts_here += [f"last {last} {self._usual[index - 1]}", f"last{self.gaps[index]}", f"last {last}{self.gaps[index]}"]
        if index in self._spelled_out:
            facts_here.append(f"spelled out {self._spelled_out[index]}")
        facts_here.append("")
        prefix = ("" if table.inside else "no table ") + ("first " if is_first else "")
        known = "" if alone else " alone"
        for form in dict.fromkeys([word, word[:1].upper() + word[1:], *inside, *first, *within, *begins, *prose]):
            if form.lower() != word:
                continue
            kind = shape(form)
            p = _smoothed(alone, form, shares[kind], _PRIOR_COUNT)
            facts = [(f"{fact} {kind}", 1.0) for fact in facts_here]
            if not alone:  # a large table's unknown words are rare, a small one's need not be
                facts.append((f"unknown {kind}", table.size))
            facts.append(("alone", math.log(p)))
            facts += [(f"pair {number}", math.log(_smoothed(pair, form, p, _PAIR_COUNT))) for number, pair in enumerate(pairs)]
            if is_first and inside:
                facts.append(("within", math.log(_smoothed(inside, form, table.shapes[0][kind], _PRIOR_COUNT))))
            if within:
                facts.append((f"source{known} {kind}", _share(within, form)))
            if begins:
                known_here = "" if alone or within else " alone"
                facts.append((f"source begins{known_here} {kind}", _share(begins, form)))
            for side, key in beside:
                if key in source.pairs:
                    facts.append((f"source {side} {kind}", _share(source.pairs[key], form)))
            facts.append((f"prose{known}", math.log(_smoothed(prose, form, p, _PRIOR_COUNT))))
            yield form, [(prefix + name, value) for name, value in facts]


def _spelled_out(words: list[str], source: str) -> dict[int, int]:
    """Which words are those of a short form, `Fast Light Toolkit` beside `FLTK`: {index: letters of the short form, up to 4}."""
    initials, found = "".join(word[0] for word in words), dict[int, int]()
    short = {word.lower() for word in _WORD.findall(source) if shape(word) == "UPPER"} | {word for word in words if len(word) > 2}
    for name in short:
        at = initials.find(name)
        while at >= 0:
            for index in range(at, at + len(name)):
                found[index] = max(found.get(index, 0), min(len(name), 4))
            at = initials.find(name, at + 1)
    return found


class SourceForms:
    """The forms of a source's words.

    Attributes:
        inside, first: {word: {form: count}}, within its sentences and at their beginnings.
        pairs: see `Casing`; of words within its sentences.
    """

    def __init__(self, source: str) -> None:
        self.inside: dict[str, Counter[str]] = defaultdict(Counter)
        self.first: dict[str, Counter[str]] = defaultdict(Counter)
        self.pairs: dict[_Pair, Counter[str]] = defaultdict(Counter)
        words, gaps = _WORD.findall(source), _WORD.split(source)
        lower = [_START, *map(str.lower, words), _END]
        for index, form in enumerate(words):
            before, word, after = lower[index : index + 3]
            marks = gaps[index].rstrip(" \"'(`*-")
            if index == 0 or marks[-1:] in _SENTENCE_ENDS and marks:
                self.first[word][form] += 1
            else:
                self.inside[word][form] += 1
                self.pairs[before, word, ""][form] += 1
                self.pairs["", word, after][form] += 1


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


def _share(forms: _Forms, form: str) -> float:
    return forms.get(form, 0) / sum(forms.values())


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


@lru_cache(maxsize=1)
def _weights() -> dict[str, float]:
    """What each fact says for a form; names with `first` are for a text's first word."""
    rows = (line.rpartition(" ") for line in WEIGHTS.read_text(encoding="utf-8").splitlines() if not line.startswith("# "))
    return {fact: float(weight) for fact, _, weight in rows}
