"""Hostile and damaged inputs: each gets one clear line, or gives the right texts, in bounded time and memory."""

import pytest
from attack import corpus, runner

SAMPLE = 60


@pytest.fixture(scope="module")
def attack(exported, data_bin, tmp_path_factory):
    return runner.Runner(runner.make_material(tmp_path_factory.mktemp("attack"), exported, data_bin))


def lost(outcomes):
    return [f"{outcome.case.kind}: {outcome.case.name}: {outcome.said}" for outcome in outcomes if not outcome.held]


def test_a_sample_of_hostile_inputs(attack):
    cases = corpus.cases(attack.material)
    assert len(cases) >= 400
    assert lost(attack.try_all(cases[:: len(cases) // SAMPLE])) == []


@pytest.mark.slow
def test_all_hostile_inputs(attack):
    assert lost(attack.try_all(corpus.cases(attack.material))) == []
