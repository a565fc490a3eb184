"""Chooses a link's weights on validation pairs, by a few dozen searches through stored candidates without a network pass."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from .link import Weights

GRID = {
    "gain": (0.0, 0.5, 1.0, 1.5, 2.0, 2.5, 3.0, 3.5, 4.0, 5.0, 6.0),
    "weight": (0.0, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.85, 1.0, 1.2),
    "bonus": (0.0, 0.15, 0.3, 0.45, 0.6, 0.8, 1.0, 1.3),
}
"""Values to try for each weight, ascending. Weights are searched in this order, the most important first."""

_START = Weights()


def tune(
    score: Callable[[Weights], float], start: Weights = _START, grid: Mapping[str, Sequence[Any]] = GRID
) -> tuple[Weights, dict[Weights, float]]:
    """Moves one weight after another along its values, as long as the score rises, until no move gains.

    Args:
        score: gives the score of some weights, higher is better; called once for each.
        start: weights to begin with; those in the grid begin at the nearest value.

    Returns:
        The best weights (of equal ones those tried first), and the scores of all tried, in order.
    """
    best = replace(
        start, **{name: min(values, key=lambda value: abs(value - getattr(start, name))) for name, values in grid.items()}
    )
    tried = {best: score(best)}
    while True:
        before = best
        for name, values in grid.items():
            for step in (1, -1):
                at = values.index(getattr(best, name)) + step
                while 0 <= at < len(values):
                    other = replace(best, **{name: values[at]})
                    if other not in tried:
                        tried[other] = score(other)
                    if tried[other] <= tried[best]:
                        break
                    best, at = other, at + step
        if best == before:
            return best, tried
