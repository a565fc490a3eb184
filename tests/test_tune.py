"""The tuner on functions whose maximum is known."""

from dataclasses import replace

from bang.decoding.link import Weights
from bang.decoding.tune import GRID, tune


def test_it_climbs_to_the_top_and_asks_once_for_each():
    top, asked = Weights(0.7, 3.0, 0.8, width=2), []

    def score(weights):
        asked.append(weights)
        return -sum(abs(getattr(weights, name) - getattr(top, name)) for name in GRID)

    best, tried = tune(score, Weights(width=2))
    assert best == top and asked == list(tried) and len(set(asked)) == len(asked)
    assert tried[best] == max(tried.values()) == 0


def test_of_equal_weights_the_first_stays():
    best, tried = tune(lambda weights: 1.0, Weights(0.5, 2.1, 0.3))
    assert best == Weights(0.5, 2.0, 0.3), "the values of the grid that are nearest"
    assert len(tried) == 1 + 2 * len(GRID)


def test_the_ends_of_the_grid_are_reached():
    best, _ = tune(lambda weights: weights.bonus - weights.gain)
    assert (best.bonus, best.gain) == (GRID["bonus"][-1], GRID["gain"][0])
    assert replace(best, bonus=0.3, gain=2.0) == Weights()
