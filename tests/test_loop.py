"""The decoding loop against plain loops, with a session whose language is a table: no network, no torch."""

import random
import subprocess
import sys

import numpy as np
import pytest

from bang import modes
from bang.decoding import loop

PAD, EOS, VOCABULARY = 0, 2, 9


class Language:
    """A session that knows the next token of any text; its drafts are right with some probability, wrong ones never sure.

    It keeps what the loop feeds by column, as a real one keeps keys and values, and answers from
    what an anchor sees there, so that a stale column or a wrong anchor gives other texts.
    """

    def __init__(self, seed, rows, least, limit, skill):
        self.seed, self.skill = seed, skill
        self.row, self.least, self.limit = np.arange(rows), least, limit
        self.columns = np.full((rows, 400), -7)
        self.rng = random.Random(seed)
        self.shapes = []

    def next(self, row, text, banned=()):
        """Token and probability after `text`, a tuple that begins with the start symbol."""
        rng = random.Random(str((self.seed, int(row), [int(token) for token in text])))
        target = len(text) - 1
        allowed = [token for token in range(3, VOCABULARY) if token not in banned]
        if target >= self.least[row]:
            allowed += [EOS] * 2
        if target >= self.limit[row]:
            allowed = [EOS]
        return rng.choice(allowed), rng.random()

    def canvas(self, row, target):
        return self.next(row, (EOS,) * (target + 1)) if target < self.limit[row] else (EOS, 0.5)

    def run(self, step):
        self.shapes.append((step.main, step.block_sizes))
        tokens = np.full((len(self.row), step.blocks + step.drafts), PAD)
        scores = np.zeros(tokens.shape, dtype=np.float32)
        for place, row in enumerate(self.row):
            if not step.main:
                found = [self.canvas(row, step.first[place] + slot) for slot in range(1 + step.drafts)]
            else:
                self.columns[row, step.first[place] : step.first[place] + step.main] = step.tokens[place]
                found = self._read(step, place, row)
            tokens[place], scores[place] = [token for token, _ in found], np.log([chance for _, chance in found])
        return tokens, scores

    def _read(self, step, place, row):
        texts = [tuple(self.columns[row, : anchor + 1]) for anchor in step.anchor[place]]
        bans = list(zip(*step.banned)) if step.banned is not None else []
        given = []
        for block, text in enumerate(texts):
            token, chance = self.next(row, text, [t for r, b, t in bans if (r, b) == (place, block)])
            if step.forced is not None and step.forced[place, block] >= 0:
                token = step.forced[place, block]
            given.append((token, chance))
        drafted = [texts[block + 1][-1] for block in range(step.blocks - 1)]
        block = next((b for b, draft in enumerate(drafted) if draft != given[b][0]), step.blocks - 1)
        text, drafts = texts[block] + (given[block][0],), []
        for index in range(step.drafts):
            token, chance = self.next(row, text)
            if step.block_sizes[block] <= 1 + index:
                token = PAD
            elif step.blocks > 1 and self.rng.random() > self.skill:
                token, chance = self.rng.randrange(1, VOCABULARY), 1e-30
            drafts.append((token, chance))
            text += (token,)
        return given + drafts

    def keep(self, rows):
        self.row = self.row[rows]


def decode(strategy, seed=0, rows=7, least=1, limit=30, skill=0.6, **settings):
    """Texts, and the session that gave them. `limit` may name one for each row."""
    least, limit = np.broadcast_to(least, rows), np.broadcast_to(limit, rows)
    session = Language(seed, rows, np.minimum(least, limit), limit, skill)
    return loop.Decoding(session, strategy, least, limit, PAD, EOS, **settings).run(), session


def words(texts):
    return [text.tokens.tolist() for text in texts]


def greedy(session, row, prefix=(), no_repeat=0):
    """The text token by token, and the chances."""
    text, chances = (EOS,), []
    while len(text) == 1 or text[-1] != EOS:
        seen = {text[i : i + no_repeat] for i in range(len(text) - no_repeat + 1)} if no_repeat else ()
        banned = [t for t in range(VOCABULARY) if (text + (t,))[-no_repeat:] in seen and len(text) >= no_repeat] if seen else ()
        token, chance = session.next(row, text, banned)
        if len(text) - 1 < min(len(prefix), session.limit[row]):
            token = prefix[len(text) - 1]
        text, chances = text + (token,), chances + [chance]
    return list(text[1:]), chances


@pytest.mark.parametrize("drafts", [1, 2, 4, 7])
@pytest.mark.parametrize("skill", [0.0, 0.6, 1.0])
def test_verified_text_is_that_of_one_token_at_a_time(drafts, skill):
    for seed in range(20):
        limit = np.random.default_rng(seed).integers(0, 30, 7)
        texts, session = decode(
            modes.strategy("speculative", draft_length=drafts), seed, limit=limit, least=seed % 4, skill=skill
        )
        for row, text in enumerate(texts):
            tokens, chances = greedy(session, row)
            assert text.tokens.tolist() == tokens
            assert text.scores == pytest.approx(np.log(chances), abs=1e-5)


@pytest.mark.parametrize("gain,behind,passes", [(0.0, 2, [1, 5] + [3] * 6 + [1]), (4.0, 1, [1, 5] + [2] * 9 + [1])])
def test_good_drafts_save_passes(gain, behind, passes):
    texts, session = decode(
        modes.strategy("speculative", draft_length=4, draft_from_source=gain), least=24, limit=24, skill=1.0, rows=3
    )
    # the first pass verifies nothing; behind drafts that were all right a block drafts less far
    assert [np.bincount(text.passes)[1:].tolist() for text in texts] == [passes] * 3
    assert session.shapes[:3] == [(1, (5,)), (5, (5,) + (1 + behind,) * 4), (1 + behind, (5,) + (1 + behind,) * behind)]
    texts, session = decode(
        modes.strategy("speculative", draft_length=4, draft_from_source=gain), least=24, limit=24, skill=0.0, rows=3
    )
    assert len(session.shapes) > 15


def test_ar_runs_one_slot_a_pass():
    texts, session = decode(modes.strategy("ar"), limit=9)
    assert words(texts) == [greedy(session, row)[0] for row in range(7)]
    assert set(session.shapes) == {(1, (1,))}
    assert all((text.passes == np.arange(1, 1 + len(text.passes))).all() for text in texts)


@pytest.mark.parametrize("block", [1, 2, 3, 8])
def test_semi_nar_keeps_whole_blocks(block):
    """The language is the same in a block as token by token, so the text is too."""
    texts, session = decode(modes.strategy("semi-nar", block_size=block), limit=[0, 1, 5, 9, 20, 20, 20])
    assert words(texts) == [greedy(session, row)[0] for row in range(7)]
    assert all((text.passes == 1 + np.arange(len(text.passes)) // block).all() for text in texts)


@pytest.mark.parametrize("threshold", [0.0, 0.2, 0.5, 0.9, 1.0])
def test_the_dial_keeps_what_is_sure(threshold):
    """Drafts are right: what a pass was not sure of the next one keeps, and the block behind as far as it is sure."""
    strategy = modes.strategy("semi-nar", block_size=4, commit_threshold=threshold)
    for seed in range(10):
        texts, session = decode(strategy, seed, rows=1, least=9, skill=1.0)
        tokens, chances = greedy(session, 0)
        assert texts[0].tokens.tolist() == tokens
        expected, number, drafted = [], 1, 0
        while len(expected) < len(tokens):
            first = len(expected) + drafted  # behind what is verified: always kept
            size = (4,) if not threshold else strategy.block_sizes(min(3, 30 - len(expected)), 1 + drafted)
            block = chances[first + 1 : first + size[drafted]]
            sure = next((i for i, chance in enumerate(block) if chance < threshold), len(block))
            ends = tokens[first + 1 + sure :][: len(block) - sure]
            drafted = (ends + [EOS]).index(EOS)  # an end is not drafted
            expected += [number] * (first + 1 + sure - len(expected))
            number += 1
        assert texts[0].passes.tolist() == expected[: len(tokens)]


@pytest.mark.parametrize("threshold", [0.3, 0.8, 1.0])
@pytest.mark.parametrize("skill", [0.0, 0.6])
def test_wrong_drafts_of_the_dial_are_verified(threshold, skill):
    for seed in range(10):
        texts, session = decode(
            modes.strategy("semi-nar", block_size=5, commit_threshold=threshold), seed, limit=range(7, 28, 3), skill=skill
        )
        for row, text in enumerate(texts):
            tokens, chances = greedy(session, row)
            assert text.tokens.tolist() == tokens
            assert text.scores == pytest.approx(np.log(chances), abs=1e-5)


@pytest.mark.parametrize("least, pieces", [(0, [16]), (15, [16]), (16, [17, 33]), (100, [33, 33, 33, 2])])
def test_the_first_piece_of_nar_is_short_where_texts_may_end_in_it(least, pieces):
    _, session = decode(modes.strategy("nar"), rows=1, least=least, limit=100)
    assert [sizes for _, sizes in session.shapes][: len(pieces)] == [(piece,) for piece in pieces]


@pytest.mark.parametrize("piece", [1, 2, 5, 40])
def test_nar_cuts_at_the_first_eos_after_a_token(piece):
    limit = [0, 1, 2, 5, 9, 30, 30]
    strategy = modes.strategy("nar")._replace(drafts=piece - 1)
    for seed in range(10):
        texts, session = decode(strategy, seed, limit=limit, least=0)
        for row, text in enumerate(texts):
            canvas = [session.canvas(row, target)[0] for target in range(limit[row] + 1)]
            started = [any(token != EOS for token in canvas[:target]) for target in range(len(canvas))]
            end = next((t for t, token in enumerate(canvas) if token == EOS and started[t]), limit[row])
            assert text.tokens.tolist() == canvas[: end + 1]


@pytest.mark.parametrize(
    "strategy",
    [
        modes.strategy("ar"),
        modes.strategy("semi-nar", block_size=3),
        modes.strategy("speculative", draft_length=3),
        modes.strategy("semi-nar", block_size=3, commit_threshold=0.5),
    ],
)
def test_prefixes_are_given_and_scored(strategy):
    prefix = np.array([[5, 6, 7], [5, 0, 0], [0, 0, 0], [5, 6, EOS], [5, 5, 5]])
    skill = 0.6 if strategy.verify else 1.0  # what is kept unverified had better be right
    texts, session = decode(strategy, rows=5, limit=[20, 20, 20, 20, 2], least=4, skill=skill, prefix=prefix)
    for row, text in enumerate(texts):
        tokens, chances = greedy(session, row, prefix[row][prefix[row] != PAD])
        assert text.tokens.tolist() == tokens
        assert text.scores == pytest.approx(np.log(chances), abs=1e-5)
    assert words(texts)[3:] == [[5, 6, EOS], [5, 5, EOS]]


@pytest.mark.parametrize("size", [1, 2, 3])
def test_ngrams_do_not_repeat(size):
    for strategy in (modes.strategy("ar"), modes.strategy("speculative", draft_length=3)):
        texts, session = decode(strategy, least=6, limit=6 if size == 1 else 20, no_repeat_ngram=size)
        assert words(texts) == [greedy(session, row, no_repeat=size)[0] for row in range(7)]


def test_rows_leave_and_come_back_in_order():
    limit = np.array([12, 0, 3, 25, 1, 3, 7])
    texts, _ = decode(modes.strategy("speculative", draft_length=2), limit=limit, least=30)
    assert [len(text.tokens) for text in texts] == (limit + 1).tolist()


@pytest.mark.parametrize(
    "make,option",
    [
        (lambda: modes.strategy("semi-nar", block_size=0), "block_size=0"),
        (lambda: modes.strategy("semi-nar", commit_threshold=1.5), "commit_threshold=1.5"),
        (lambda: modes.strategy("speculative", draft_length=0), "draft_length=0"),
        (lambda: modes.strategy("speculative", draft_from_source=-1.0), "draft_from_source=-1.0"),
        (lambda: modes.strategy("speculative", draft_from_source=float("inf")), "draft_from_source=inf"),
    ],
)
def test_what_cannot_be_is_refused(make, option):
    with pytest.raises(ValueError, match=option):
        make()


def test_the_loop_needs_no_torch():
    code = "import sys, bang.decoding.loop, bang.decoding.choice; assert not {'torch', 'fairseq'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
