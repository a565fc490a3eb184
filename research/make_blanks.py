"""Learns from text where blanks stand around punctuation: the weights of `bang.text.detokenize`.

    python research/make_blanks.py train.tgt train.src docstrings.txt names.txt > bang/text/blanks.txt

made the repository's table, from the training part of the Debian pairs (see examples/debian), first lines of
docstrings, and the NAME lines of manual pages (`benchmarks/detokenization.py --write` collects them). Each blank before
or after a mark is an example of a logistic regression whose weights are kept few by an L1 penalty.
"""

import argparse
from collections.abc import Iterable

import torch
from torch.nn import functional

from bang.errors import exit_on_mistakes
from bang.text import files
from bang.text.detokenize import Line, split_words
from bang.text.wordpieces import load_word_pieces

RARE = 2  # a fact that fewer examples show is left out
LEAST = 0.1  # weights below are left out
BATCH = 4096


def words_and_blanks(line: str) -> tuple[list[str], list[bool]] | None:
    """Returns a line's words and marks as its word pieces give them, and whether a blank stands before each.

    None where the pieces do not spell the line: letters with accents, unknown characters, a run of marks with blanks.
    """
    line = " ".join(line.lower().split())
    words, blanks, place = split_words(load_word_pieces()(line)), [], 0
    for word in words:
        start = place + line[place:].startswith(" ")
        if not line.startswith(word, start):
            return None
        blanks.append(start > place)
        place = start + len(word)
    return words, blanks


def examples(lines: Iterable[str]) -> tuple[list[list[int]], list[bool], list[str]]:
    """The facts about each blank that is to be decided, by their numbers, whether it is there, and the facts."""
    facts, answers, numbers = [], [], {}
    for text in lines:
        words, blanks = words_and_blanks(text) or ([], [])
        line = Line(words)
        for index in range(1, len(words)):
            if not line.is_open(index):
                facts.append([numbers.setdefault(fact, len(numbers)) for fact in line.features(index)])
                answers.append(blanks[index])
            line.add(blanks[index])
    return facts, answers, list(numbers)


def learn(facts: list[list[int]], answers: list[bool], size: int, passes: int, penalty: float) -> list[float]:
    """Returns the weight of each of `size` facts; 0 for most, and for those that few examples show."""
    everything = torch.tensor([fact for example in facts for fact in example])
    lengths = torch.tensor(list(map(len, facts)))
    starts, targets = lengths.cumsum(0) - lengths, torch.tensor(answers, dtype=torch.float32)
    is_common = (torch.bincount(everything, minlength=size) >= RARE).float()
    weights, squares = torch.zeros(size, 1, requires_grad=True), torch.zeros(size, 1)
    for number in range(passes):
        order = torch.randperm(len(facts), generator=torch.Generator().manual_seed(number))
        for batch in order.split(BATCH):
            places = torch.repeat_interleave(starts[batch] - lengths[batch].cumsum(0) + lengths[batch], lengths[batch])
            flat = everything[places + torch.arange(len(places))]
            offsets = lengths[batch].cumsum(0) - lengths[batch]
            logits = functional.embedding_bag(flat, weights, offsets, mode="sum")[:, 0]
            loss = functional.binary_cross_entropy_with_logits(logits, targets[batch], reduction="sum")
            (gradient,) = torch.autograd.grad(loss, weights)
            gradient = gradient * is_common[:, None]
            squares += gradient.square()
            step = 0.5 / (squares.sqrt() + 1)  # AdaGrad
            with torch.no_grad():
                moved = weights - step * gradient
                weights.copy_(moved.sign() * (moved.abs() - step * penalty * len(batch) / len(facts)).clamp_min(0))
    return weights[:, 0].tolist()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("texts", nargs="+", metavar="TEXT", help="raw text, a line each")
    parser.add_argument("--passes", type=int, default=10, help="over the examples (default %(default)s)")
    parser.add_argument("--penalty", type=float, default=0.3, help="of L1 (default %(default)s)")
    args = parser.parse_args()
    with exit_on_mistakes(parser.prog):
        facts, answers, names = examples(line for path in args.texts for line in files.read_lines(path))
        weights = learn(facts, answers, len(names), args.passes, args.penalty)
    print("# Made by research/make_blanks.py: what is known of a blank, and how much it says for one.")
    for fact, weight in sorted(zip(names, weights)):
        if abs(weight) >= LEAST:
            print(f"{fact} {weight:.1f}")


if __name__ == "__main__":
    main()
