"""Drafts by the slots and the source, against a plain loop over rows; what is drawn, against its distribution."""

import numpy as np
import pytest
import torch

from bang.decoding.choice import Bounds, Chooser

PAD, UNK, EOS, VOCABULARY = 0, 1, 2, 12
CHOOSER = Chooser(PAD, UNK, EOS)
BACKENDS = pytest.mark.parametrize("xp", [np, torch], ids=["numpy", "torch"])


def draft(xp, logits, before, source, gain, missing, chooser=CHOOSER, bounds=None, sure=None):
    """`Chooser.draft` of plain lists or numpy arrays: tokens, and scores where slots may be sure of some."""
    logits, before, source, missing = map(np.array, (logits, before, source, missing))
    target = np.broadcast_to(np.arange(missing.shape[1]), missing.shape)
    arrays = logits.astype(np.float32), target, before, source, missing
    if xp is torch:
        arrays = map(torch.tensor, arrays)
        bounds = bounds and Bounds(*map(torch.tensor, bounds))
    logits, target, before, source, missing = arrays
    drafts, scores = map(np.asarray, chooser.draft(xp, [logits], target, bounds, before, source, gain, missing, sure))
    if sure is None:
        assert (scores == -np.inf).all()
        return drafts.tolist()
    return drafts.tolist(), scores.tolist()


def slow_draft(logits, before, source, gain, missing, sure=np.inf):
    """One row."""
    drafts, scores = [], []
    for of_slot, without in zip(logits, missing):
        behind = {after for token, after in zip(source, source[1:]) if token == before} - {EOS, PAD, before}
        log_probs = np.array(of_slot) - np.log(np.exp(of_slot).sum())
        own = 1 + int(log_probs[1:].argmax())
        of_slot = [x + gain * (token in behind) for token, x in enumerate(of_slot)]
        allowed = (behind if without else set(range(VOCABULARY))) - {PAD, before}
        kept = not without and own != before and log_probs[own] >= sure
        before = own if kept else max(allowed, key=lambda token: of_slot[token], default=PAD)
        drafts.append(before)
        scores.append(log_probs[own] if kept else -np.inf)
    return drafts, scores


@BACKENDS
def test_drafts_are_those_of_a_plain_loop(xp):
    rng, from_source, outdone = np.random.default_rng(1), 0, 0
    for _ in range(200):
        rows, length, number = rng.integers(1, 4), rng.integers(1, 20), rng.integers(1, 6)
        logits = rng.normal(size=(rows, number, VOCABULARY)) * 2
        source = rng.integers(3, VOCABULARY, (rows, length))
        source[:, -1] = EOS
        source[0, : length // 3] = PAD
        before = rng.integers(3, VOCABULARY, rows)
        missing = np.arange(number) >= rng.integers(0, number + 1, (rows, 1))
        gain = float(rng.choice([0.5, 2.0, 50.0]))
        found = draft(xp, logits, before, source, gain, missing)
        rows = list(zip(logits.tolist(), before, source.tolist(), missing))
        assert found == [slow_draft(*row[:3], gain, row[3])[0] for row in rows]
        expected, scores = zip(*(slow_draft(*row[:3], gain, row[3], np.log(0.4)) for row in rows))
        found_sure, found_scores = draft(xp, logits, before, source, gain, missing, sure=np.log(0.4))
        assert found_sure == list(expected)
        np.testing.assert_allclose(found_scores, scores, atol=1e-5)
        outdone += found_sure != found
        from_source += found != draft(xp, logits, before, source, 0, missing)
    assert from_source > 100 and outdone > 20


@BACKENDS
def test_without_a_gain_the_slots_alone_choose(xp):
    logits = np.eye(VOCABULARY)[[[5, 5, 7]]]
    assert draft(xp, logits, [5], [[5, 6, 7, EOS]], 0, [[False, False, True]]) == [[5, 5, PAD]]
    found, scores = draft(xp, 9 * logits, [5], [[5, 6, 7, EOS]], 0, [[False, False, True]], sure=np.log(0.9))
    assert found == [[5, 5, PAD]] and scores[0][0] > np.log(0.99) and scores[0][2] == -np.inf


@BACKENDS
def test_drafts_are_drawn_with_the_noise_of_the_slots_that_verify_them(xp):
    """The same token, where the source has nothing to say."""
    chooser = Chooser(PAD, UNK, EOS, sampling=True, seed=3)
    logits = np.random.default_rng(2).normal(size=(40, 1, VOCABULARY))
    bounds = Bounds(np.zeros(40, dtype=int), np.full(40, 9), np.arange(40))
    nothing, none = np.full((40, 3), PAD), np.zeros((40, 1), dtype=bool)
    alone = draft(xp, logits, np.full(40, PAD), nothing, 0, none, chooser, bounds)
    assert draft(xp, logits, np.full(40, PAD), nothing, 4.0, none, chooser, bounds) == alone
    assert len({token for (token,) in alone}) > 4  # drawn, and not the likeliest


@BACKENDS
@pytest.mark.parametrize("number", [1, 3, 40])
def test_among_the_likeliest_are_drawn_those_that_win_of_all(xp, number):
    """The draw is the arg-max of log-probability plus noise; the noise of the others does not matter."""
    rng = np.random.default_rng(4)
    logits, rows = rng.normal(size=(300, 2, VOCABULARY)).astype(np.float32), np.arange(300)
    chooser = Chooser(PAD, UNK, EOS, sampling=True, topk=number, seed=8)
    allowed = logits.copy()
    allowed[..., PAD] = -np.inf
    lowest = np.sort(allowed, -1)[..., -min(number, VOCABULARY) :][..., :1]
    noise = chooser._gumbel(np, np.arange(VOCABULARY), np.arange(2) + 0 * rows[:, None], rows)
    expected = (np.where(allowed < lowest, -np.inf, allowed) + noise).argmax(-1)
    target, bounds = np.arange(2) + 0 * rows[:, None], (np.zeros(300, int), np.full(300, 9), rows)
    if xp is torch:
        logits, target, *bounds = map(torch.tensor, (logits, target, *bounds))
    token, _ = chooser(xp, [logits], target, Bounds(*bounds))
    assert np.asarray(token).tolist() == expected.tolist()
    assert len(set(expected.flatten())) == VOCABULARY - 1  # pad is never drawn


@BACKENDS
def test_an_end_may_have_to_be_likelier(xp):
    logits = np.zeros((1, 1, VOCABULARY), dtype=np.float32)
    logits[..., EOS], logits[..., 7] = 3, 2
    for penalty, token in ((0.0, EOS), (0.9, EOS), (1.1, 7), (-1.0, EOS)):
        given = logits.copy() if xp is np else torch.tensor(logits)
        found, score = Chooser(PAD, UNK, EOS, eos_penalty=penalty)(xp, [given], xp.zeros((1, 1), dtype=xp.int64))
        assert int(found[0, 0]) == token
        total = np.log(np.exp(logits).sum())
        assert float(score[0, 0]) == pytest.approx(float(logits[0, 0, token]) - penalty * (token == EOS) - total, abs=1e-5)


@BACKENDS
@pytest.mark.parametrize("topp,nucleus", [(0.15, 1), (0.5, 3), (0.8, 6), (0.99, 9), (-1.0, 11)])
def test_what_is_drawn_is_the_nucleus(xp, topp, nucleus):
    """The fewest tokens that hold `topp`, as often as each is likely among them; `topp` goes before `topk`."""
    share = np.array([0.2, 0.18, 0.16, 0.12, 0.1, 0.08, 0.07, 0.05, 0.035, 0.004, 0.001])
    places = np.array([7, 2, 11, 4, 1, 9, 3, 10, 5, 8, 6])  # anywhere but at pad
    logits = np.full(VOCABULARY, -1e9, dtype=np.float32)
    logits[places] = np.log(share)
    rows = 40_000
    arrays = np.tile(logits + 3, (rows, 1, 1)), np.zeros((rows, 1), int), np.zeros(rows, int), np.full(rows, 9), np.arange(rows)
    of_rows, target, *bounds = arrays if xp is np else map(torch.tensor, arrays)
    chooser = Chooser(PAD, UNK, EOS, sampling=True, topp=topp, topk=2 if topp > 0 else -1, seed=5)
    token, score = map(np.asarray, chooser(xp, [of_rows], target, Bounds(*bounds)))
    drawn = np.bincount(token[:, 0], minlength=VOCABULARY)[places]
    expected = rows * share[:nucleus] / share[:nucleus].sum()
    assert drawn[nucleus:].sum() == 0 and drawn.sum() == rows
    chi_square = ((drawn[:nucleus] - expected) ** 2 / expected).sum()
    assert chi_square < 35  # of at most 10 degrees of freedom: a right sampler gives more once in 8,000
    assert np.allclose(score, logits[token], atol=1e-5)
