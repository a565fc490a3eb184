"""Finds the weights of bang/text/casing.py: the likeliest ones for the training pairs' own capitals.

    python research/fit_casing.py DATA > bang/text/capitals.txt

DATA holds {train,valid}.{src,tgt}. A quarter of the targets is restored with a table of the other three, so that no word votes
for itself; others with a table of 500 targets, and without a table. Prints the weights, and the share of words of valid.tgt that
get their form back.
"""

import sys
from collections.abc import Iterator
from itertools import chain
from pathlib import Path

import numpy as np

from bang.text import casing
from bang.text.casing import Casing, Line
from bang.text.files import read_lines

PART, EPOCHS, BATCH, RATE, DECAY, LEAST = 4, 6, 256, 0.3, 1e-4, 30

Facts = list[tuple[str, float]]


def examples(pairs: list[tuple[str, str]], table: Casing) -> Iterator[tuple[list[Facts], int]]:
    """Of each word that has several forms to choose from: the facts of each, and which one it has."""
    for source, target in pairs:
        line = Line(target.lower(), source, table)
        if len(line.words) != len(forms := casing._WORD.findall(target)):
            continue  # a letter whose lower case is two characters
        for index, form in enumerate(forms):
            found = dict(line.candidates(index))
            if form in found and len(found) > 1:
                yield list(found.values()), list(found).index(form)
            line.written.append(form)


def fit(found: list[tuple[list[Facts], int]]) -> dict[str, float]:
    """The weights of a log-linear model, by Adagrad; facts of fewer than `LEAST` forms are left out."""
    facts = list(chain.from_iterable(candidates for candidates, _ in found))
    counted = dict(zip(*np.unique([name for fact in facts for name, _ in fact], return_counts=True)))
    numbers = {str(name): number for number, name in enumerate(name for name, count in counted.items() if count >= LEAST)}
    kept = [[(numbers[name], value) for name, value in fact if name in numbers] for fact in facts]
    columns, values = (np.array(part) for part in zip(*chain.from_iterable(kept)))
    starts = np.cumsum([0, *map(len, kept)])
    firsts = np.cumsum([0, *(len(candidates) for candidates, _ in found)])
    right = firsts[:-1] + [right for _, right in found]
    weights, squares, random = np.zeros(len(numbers)), np.full(len(numbers), 0.1), np.random.default_rng(1)
    for epoch in range(EPOCHS):
        order = random.permutation(len(found))
        for batch in np.split(order, range(BATCH, len(order), BATCH)):
            forms = np.concatenate([np.arange(firsts[word], firsts[word + 1]) for word in batch])
            words = np.repeat(np.arange(len(batch)), firsts[batch + 1] - firsts[batch])
            places = np.concatenate([np.arange(starts[form], starts[form + 1]) for form in forms])
            rows = np.repeat(np.arange(len(forms)), starts[forms + 1] - starts[forms])
            p = np.exp(np.clip(np.bincount(rows, weights[columns[places]] * values[places], minlength=len(forms)), -50, 50))
            p /= np.bincount(words, p)[words]
            gradient = np.bincount(
                columns[places], (p - np.isin(forms, right[batch]))[rows] * values[places], minlength=len(weights)
            )
            gradient += DECAY * len(batch) * weights
            squares += gradient**2
            weights -= RATE * (1 - epoch / EPOCHS) * gradient / np.sqrt(squares)
    return dict(zip(numbers, weights.tolist()))


def main() -> None:
    data = Path(sys.argv[1])
    pairs = list(zip(read_lines(data / "train.src"), read_lines(data / "train.tgt")))
    sources, targets = zip(*(pair for number, pair in enumerate(pairs) if number % PART))
    tables = (pairs[::PART], Casing.count(targets, sources)), (pairs[1::40], Casing.count(targets[:500]))
    found = fit([example for some, table in tables for example in examples(some, table)])
    found |= fit(list(examples(pairs[2::8], Casing())))  # other names: no table
    weights = {name: round(weight, 2) for name, weight in found.items()}
    print("# weights of facts about a word's form, found by research/fit_casing.py")
    print("\n".join(f"{name} {weight:.2f}" for name, weight in weights.items() if weight))
    casing._weights = lambda: weights
    sources, targets = zip(*pairs)
    table = Casing.count(targets, sources)
    right = total = 0
    for source, target in zip(read_lines(data / "valid.src"), read_lines(data / "valid.tgt")):
        restored = table.restore(target.lower(), source)
        both = list(zip(casing._WORD.findall(restored), casing._WORD.findall(target)))
        right, total = right + sum(a == b for a, b in both), total + len(both)
    print(f"{100 * right / total:.2f} % of the words of valid.tgt", file=sys.stderr)


if __name__ == "__main__":
    main()
