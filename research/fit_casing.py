"""Finds the weights of bang/text/casing.py: the likeliest ones for the training pairs' own capitals.

    python research/fit_casing.py DATA

DATA holds {train,valid}.{src,tgt}. A fifth of the targets at a time is restored with a table of the other four, so that no
word votes for itself. Prints the weights, and the share of words of valid.tgt that get their form back.
"""

import sys
from collections.abc import Iterator
from pathlib import Path

import torch

from bang.text import casing
from bang.text.casing import Casing, SourceForms
from bang.text.files import read_lines

FOLDS, EPOCHS, DECAY = 5, 4, 1e-5


def examples(pairs: list[tuple[str, str]], table: Casing) -> Iterator[tuple[list[list[tuple[str, float]]], int]]:
    """Of each word that has several forms to choose from: the facts of each, and which one it has."""
    for source, target in pairs:
        forms, words = SourceForms(source), casing._WORD.findall(target)
        lower, is_odd = [casing._START, *map(str.lower, words), casing._END], False
        for index, form in enumerate(words):
            found = dict(table.candidates(lower[index : index + 3], forms, is_odd))
            if form in found and len(found) > 1:
                yield list(found.values()), list(found).index(form)
            is_odd = table.is_odd(form)


def main() -> None:
    torch.manual_seed(1)
    torch.set_num_threads(1)
    data = Path(sys.argv[1])
    pairs = list(zip(read_lines(data / "train.src"), read_lines(data / "train.tgt")))
    found = []
    for fold in range(FOLDS):
        others = Casing.count(target for number, (_, target) in enumerate(pairs) if number % FOLDS != fold)
        found += examples(pairs[fold::FOLDS], others)
    names = sorted({name for candidates, _ in found for facts in candidates for name, _ in facts})
    index = {name: number for number, name in enumerate(names)}
    weights = torch.zeros(len(names), requires_grad=True)
    optimizer = torch.optim.Adam([weights], lr=0.02)
    for _ in range(EPOCHS):
        for batch in torch.randperm(len(found)).split(500):
            loss = torch.zeros(())
            columns, values, starts, rows, gold = [], [], [], [], []
            for row, example in enumerate(batch.tolist()):
                candidates, right = found[example]
                for number, facts in enumerate(candidates):
                    if number == right:
                        gold.append(len(starts))
                    starts.append(len(columns))
                    rows.append(row)
                    columns += [index[name] for name, _ in facts]
                    values += [value for _, value in facts]
            scores = torch.nn.functional.embedding_bag(
                torch.tensor(columns), weights[:, None], torch.tensor(starts), mode="sum", per_sample_weights=torch.tensor(values)
            )[:, 0]
            sums = torch.zeros(len(batch)).index_add(0, torch.tensor(rows), scores.exp())
            loss = (sums.log() - scores[gold]).mean() + DECAY * weights.square().sum()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    print("\n".join(f'    "{name}": {weight:.2f},' for name, weight in zip(names, weights.tolist())))
    casing.WEIGHTS.update(zip(names, weights.tolist()))
    table = Casing.count(target for _, target in pairs)
    texts = list(zip(read_lines(data / "valid.src"), read_lines(data / "valid.tgt")))
    right = total = 0
    for source, target in texts:
        restored = table.restore(target.lower(), source)
        both = list(zip(casing._WORD.findall(restored), casing._WORD.findall(target)))
        right, total = right + sum(a == b for a, b in both), total + len(both)
    print(f"{100 * right / total:.1f} % of the words of valid.tgt", file=sys.stderr)


if __name__ == "__main__":
    main()
