"""The search against brute force over all paths; its rules; and the same text whatever the batch.

Scores of these tests are multiples of 1/1024, so that sums are exact and ties are real.
"""

import itertools
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bang.decoding.candidates import Slots, likeliest
from bang.decoding.counting import make_link
from bang.decoding.link import UNIT, Weights
from bang.decoding.search import PathSearch, Rules, best_paths, path_scores
from bang.decoding.source_pairs import SourcePairs

PAD, UNK, EOS, SIZE = 0, 1, 2, 9
PIECES = [f"piece{number}" for number in range(SIZE)]
TEXTS = [[3, 4, 5], [3, 4, 4, 6], [7, 8, 3, 5], [4, 5], [6], [5, 3, 4], [8, 7, 8]]
LINKS = {order: make_link(TEXTS, PIECES, EOS, order) for order in (2, 3)}
WEIGHTS = Weights(0.5, 2.0, 0.25, end=1.5, candidates=3, width=3)  # a width of K is exact for order 3
REFUSED = -1e4


def pairs(tokens):
    return list(zip(tokens, tokens[1:]))


class Task:
    """One row: what a search is given, in plain Python, and what brute force makes of it."""

    def __init__(
        self, order, slots, source=(), text=(), least=0, limit=99, eos_penalty=0.0, unk_penalty=0.0, forced=None, banned=()
    ):
        """`slots`: for each its candidates, {token: log-probability}, and eos'."""
        self.link, self.slots, self.source, self.text = LINKS[order], slots, list(source), [EOS, *text]
        self.least, self.limit, self.eos_penalty, self.unk_penalty = min(least, limit), limit, eos_penalty, unk_penalty
        self.forced, self.banned = forced or [-1] * len(slots), set(banned)
        self.given = slots, source, text, least, limit, eos_penalty, unk_penalty, forced, sorted(banned)
        self.ranked = [sorted(found, key=lambda token: (-found[token], token)) for found, _ in slots]

    def __repr__(self):
        return f"Task({self.link.order}, {', '.join(map(repr, self.given))})"

    def ratio(self, text, token):
        before = np.array(text[-1])
        ratio, _ = self.link.bigrams(before, np.array(token))
        if self.link.order == 3 and len(text) > 1:
            _, context = self.link.bigrams(np.array(text[-2]), before)
            ratio = self.link.trigrams(
                *(np.array(x).reshape(shape) for x, shape in ((context, (1, 1, 1)), (token, (1, 1)), (ratio, (1, 1, 1))))
            )[0, 0, 0, 0]
        return int(ratio) / UNIT

    def step(self, text, slot, token, history=True):
        """What a token adds to the score of the path that `text` ends in; None: it must not."""
        kept, forced = len(text) - 1, self.forced[slot]
        link = WEIGHTS.weight * self.ratio(text, token)
        if token == EOS:
            link *= WEIGHTS.end
            if forced >= 0 and forced != EOS or forced < 0 and kept < self.least:
                return None
            return self.slots[slot][1] - self.eos_penalty + link
        if forced >= 0 and token != forced or forced < 0 and kept >= self.limit:
            return None
        pair = text[-1], token
        in_source = pair in pairs(self.source)
        score = self.slots[slot][0][token] + WEIGHTS.bonus + link + WEIGHTS.gain * in_source
        score -= self.unk_penalty * (token == UNK)
        _, index = self.link.bigrams(np.array(text[-1]), np.array(token))
        score += REFUSED * (text[-1] == token and not in_source and index < 0)
        score += REFUSED * ((slot, token) in self.banned)
        return score + REFUSED * (history and pair in pairs(text))

    def score(self, path, history=True):
        text, total = list(self.text), 0.0
        for slot, token in enumerate(path):
            step = self.step(text, slot, token, history)
            if step is None:
                return None
            text.append(token)
            total += step
        return total

    def brute_force(self, count=1, history=False):
        """The best paths and their scores, best first, and whether one that mattered has a pair twice."""
        ended, repeats = [], False
        for slots in range(1, len(self.slots) + 1):
            prefixes = list(itertools.product(*self.ranked[: slots - 1]))
            ended += self._scored([[*prefix, EOS] for prefix in prefixes], history)
            ended = sorted(ended, key=self._key)[:count]
            alive = self._scored(map(list, itertools.product(*self.ranked[:slots])), history)
            alive = sorted(alive, key=self._key)[:count]
            repeats |= any(self._repeats(path) for path, _ in ended + alive)
            if not alive or ended and alive[0][1] <= ended[0][1]:
                return ended, repeats
        return sorted(ended + alive, key=self._key)[:count], repeats

    def _scored(self, paths, history):
        found = ((path, self.score(path, history)) for path in paths)
        return [(path, score) for path, score in found if score is not None]

    def _key(self, found):
        path, score = found
        ranks = [self.ranked[slot].index(token) for slot, token in enumerate(path) if token != EOS]
        return -score, path[-1] != EOS, len(path), ranks[::-1]

    def _repeats(self, path):
        text = pairs(self.text + [token for token in path if token != EOS])
        return len(set(text)) < len(text)

    def searched(self, count=1, width=None, cut=0):
        search, slots = batch([self], count, width), of_tasks([self])
        forced = np.array([self.forced])
        for part in (slice(0, cut), slice(cut, None)) if cut else (slice(None),):
            found = [(0, slot, token) for slot, token in sorted(self.banned)]
            found = [(row, slot - (part.start or 0), token) for row, slot, token in found if slot in range(len(self.slots))[part]]
            banned = tuple(np.array(found, dtype=np.int64).reshape(-1, 3).T)
            search.extend(Slots(*(x[:, part] for x in slots)), forced[:, part], banned)
        return results(search.best())[0]


def of_tasks(tasks):
    """Candidates in an order that is not their rank."""
    tokens = np.array([[sorted(found) for found, _ in task.slots] for task in tasks])
    log_probs = np.array([[[found[token] for token in sorted(found)] for found, _ in task.slots] for task in tasks])
    return Slots(tokens, log_probs, np.array([[end for _, end in task.slots] for task in tasks]))


def padded(rows, value=PAD):
    width = max(map(len, rows))
    return np.array([[*row, *[value] * (width - len(row))] for row in rows], dtype=np.int64)


def pairs_of(sources, size=SIZE):
    return SourcePairs(padded(sources), size, (PAD, EOS))


def batch(tasks, count=1, width=None):
    first = tasks[0]
    rules = Rules(
        np.array([task.least for task in tasks]), np.array([task.limit for task in tasks]), PAD, EOS, UNK,
        first.eos_penalty, first.unk_penalty,
    )  # fmt: skip
    length = np.array([len(task.text) for task in tasks])
    weights = replace(WEIGHTS, width=width or WEIGHTS.width)
    source = pairs_of([[*task.source, EOS] for task in tasks])
    return PathSearch(first.link, source, padded([task.text for task in tasks]), length, rules, count, weights)


def results(paths):
    """Of each row its paths and scores, best first."""
    return [
        [
            (tokens[:length].tolist(), score)
            for tokens, length, score in zip(paths.tokens[row], paths.length[row], paths.score[row])
            if score > -np.inf
        ]
        for row in range(len(paths.score))
    ]


TOKENS = st.integers(3, SIZE - 1)
LOG_PROBS = st.integers(-24, 0).map(lambda number: number / 8)
CANDIDATES = st.lists(st.integers(3, SIZE - 1) | st.just(UNK), min_size=3, max_size=3, unique=True)


@st.composite
def tasks(draw, most=4):
    count = draw(st.integers(1, most))
    slots = [({token: draw(LOG_PROBS) for token in draw(CANDIDATES)}, draw(LOG_PROBS)) for _ in range(count)]
    text = draw(st.lists(TOKENS, max_size=3))
    forced = [draw(st.sampled_from([-1] * 4 + [EOS, *found])) for found, _ in slots]
    banned = [(slot, token) for slot, (found, _) in enumerate(slots) for token in found if draw(st.integers(0, 5)) == 0]
    least = draw(st.integers(0, 5))
    return Task(
        draw(st.sampled_from([2, 3])), slots, draw(st.lists(TOKENS, max_size=6)), text, least, least + draw(st.integers(0, 4)),
        draw(st.sampled_from([0.0, 0.5])), draw(st.sampled_from([0.0, 1.5])), forced, banned,
    )  # fmt: skip


def check(task, count, width):
    found = task.searched(count, width)
    expected, repeats = task.brute_force(count)
    for path, score in found:
        assert score == task.score(path), "the score is that of the path"
        assert [path.count(EOS), path[-1:]] in ([1, [EOS]], [0, path[-1:]])
    if repeats:  # the pair rule is kept along the paths, and the search not exact
        return
    assert [score for _, score in found] == [score for _, score in expected]
    if task.link.order == 2:
        assert found == expected


@settings(deadline=None, max_examples=60)
@given(tasks())
def test_the_best_path_is_that_of_brute_force(task):
    check(task, 1, 3)


@settings(deadline=None, max_examples=40)
@given(tasks(most=3), st.integers(2, 4))
def test_the_best_paths_are_those_of_brute_force(task, count):
    check(task, count, 3 * count)


@settings(deadline=None, max_examples=60)
@given(st.lists(tasks(), min_size=1, max_size=3))
def test_the_score_of_a_whole_text_is_that_of_its_path(several):
    for order in (2, 3):
        rows = [Task(order, task.slots, task.source, [], 0, 99, 0.5, 1.5) for task in several]
        found = [row.searched()[0][0] for row in rows]
        ended = [(row, path) for row, path in zip(rows, found) if path[-1] == EOS and row.score(path) > REFUSED / 2]
        if ended:
            tokens = padded([path for _, path in ended])
            own = [[row.slots[i][1] if token == EOS else row.slots[i][0][token] for i, token in enumerate(path)]
                   for row, path in ended]  # fmt: skip
            log_probs = np.zeros(tokens.shape)
            log_probs[tokens != PAD] = np.concatenate(own)
            length = np.array([len(path) for _, path in ended])
            pairs = pairs_of([[*row.source, EOS] for row, _ in ended])
            link = replace(rows[0].link, weights=WEIGHTS)
            scores = path_scores(link, pairs, tokens, log_probs, length, Rules(length, length, PAD, EOS, UNK, 0.5, 1.5))
            assert scores.tolist() == [row.score(path) for row, path in ended]


@settings(deadline=None, max_examples=40)
@given(tasks())
def test_no_pair_comes_twice_where_there_is_another_way(task):
    (path, score), *_ = task.searched(1)
    expected, _ = task.brute_force(1, history=True)
    assert score <= expected[0][1]
    if score > REFUSED / 2:
        text = pairs(task.text + [token for token in path if token != EOS])
        assert not set(text[len(task.text) - 1 :]) & set(text[: len(task.text) - 1])
        assert len(set(text[len(task.text) - 1 :])) == len(text) - len(task.text) + 1


@settings(deadline=None, max_examples=40)
@given(tasks(), st.integers(1, 3), st.integers(1, 2))
def test_a_canvas_in_pieces_gives_the_same_paths(task, cut, count):
    assert task.searched(count, cut=cut) == task.searched(count)


def plain(slots, order=2, **options):
    """A task of likeliest tokens alone: {slot's token: 0, others far below}, and no end before the last slot."""
    found = [({token: -0.125 * rank for rank, token in enumerate(tokens)}, -20.0) for tokens in slots]
    return Task(order, found, **options)


@pytest.mark.parametrize("order", [2, 3])
def test_a_token_twice_in_a_row(order):
    """5 5 is nowhere, 4 4 in a target text, 6 6 in the source."""
    assert plain([[5, 7, 8]] * 2, order).searched()[0][0] in ([5, 7], [7, 5], [5, 8], [7, 8], [8, 7])
    same = plain([[4, 7, 8]] * 2, order, source=[6, 6], forced=[4, 4])
    assert same.searched()[0][1] > REFUSED / 2
    same = plain([[6, 7, 8]] * 2, order, source=[6, 6], forced=[6, 6])
    assert same.searched()[0][1] > REFUSED / 2
    other = plain([[6, 7, 8]] * 2, order, source=[6, 7], forced=[6, 6])
    assert other.searched()[0][1] < REFUSED / 2


@pytest.mark.parametrize("order", [2, 3])
def test_the_sources_pairs_make_no_loop(order):
    """The source's 3 4 3 4 would be written for ever."""
    (path, _), *_ = plain([[3, 4, 5]] * 5, order, source=[3, 4, 3, 4]).searched()
    text = pairs([EOS, *path])
    assert len(set(text)) == len(text) == 5
    before = plain([[3, 4, 5]], order, source=[3, 4], text=[3, 4, 6, 3])
    assert before.searched()[0][0] != [4], "a pair of the text so far does not come again"


def test_ties_are_decided_by_rank_then_length():
    flat = ({5: 0.0, 6: 0.0, 7: 0.0}, -9.0)
    task = Task(2, [flat, flat], least=2, limit=2)
    everything = [path for path, score in task.searched(9) if score == task.searched()[0][1]]
    assert everything == sorted(everything, key=lambda path: path[::-1]), (
        "of equal paths the lower ids, from the last token backwards"
    )


def test_a_rule_is_broken_where_there_is_no_other_way():
    task = plain([[5, 6, 7]], text=[5], banned=[(0, 6), (0, 7)], least=3)
    (path, score), *_ = task.searched()
    assert len(path) == 1 and score < REFUSED / 2


def test_positional_scores_are_the_networks():
    task = Task(2, [({3: -1.0, 4: -2.0, UNK: -0.5}, -4.0), ({4: -1.5, 5: -2.5, 6: -3.0}, -0.25),
                    ({7: -3.0, 8: -4.0, 6: -5.0}, -0.5)],
                source=[3, 4], unk_penalty=5.0, eos_penalty=0.5)  # fmt: skip
    paths = batch([task]).best()
    assert paths.length.tolist() == [[0]] and paths.score.tolist() == [[0.0]], "nothing yet"
    search = batch([task], count=2)
    search.extend(of_tasks([task]))
    paths = search.best()
    for tokens, log_probs, length in zip(paths.tokens[0], paths.log_probs[0], paths.length[0]):
        own = [task.slots[slot][1] if token == EOS else task.slots[slot][0][token] for slot, token in enumerate(tokens[:length])]
        assert log_probs[:length].tolist() == own
        assert (tokens[length:] == PAD).all() and (log_probs[length:] == 0).all()
    assert paths.log_probs.dtype == np.float32 and search.finished.tolist() == [bool(paths.ended[0, 0])]


def real_batch(rows=36, slots=10, candidates=6, size=200, seed=0):
    """Texts of all lengths, with scores of any kind of number."""
    random = np.random.default_rng(seed)
    texts = [random.integers(3, size, random.integers(1, 12)).tolist() for _ in range(400)]
    pieces = [str(number) for number in range(size)]
    links = [make_link(texts, pieces, EOS, order) for order in (2, 3)]
    lengths = random.integers(1, 20, rows)
    sources = [random.integers(3, size, length).tolist() + [EOS] for length in lengths]
    written = [[EOS, *random.integers(3, size, random.integers(0, 5))] for _ in range(rows)]
    tokens = np.argsort(random.random((rows, slots, size - 3)), axis=2)[:, :, :candidates] + 3
    scores = np.log(random.dirichlet(np.ones(candidates + 1), (rows, slots))).astype(np.float32)
    least = random.integers(0, 6, rows)
    return (
        links,
        sources,
        written,
        Slots(tokens, scores[..., 1:], scores[..., 0]),
        least,
        least + random.integers(2, 9, rows),
    )


@pytest.mark.parametrize("order", [2, 3])
def test_a_text_depends_on_its_row_alone(order):
    links, sources, written, slots, least, limit = real_batch()
    weights = Weights(0.5, 2.0, 0.3, width=2)

    def search(rows, extra=0, reverse=False):
        """Of these rows: with columns of pads added, candidates in another order."""
        source = pairs_of([[*sources[row], *[PAD] * extra] for row in rows], links[0].size)
        text = padded([[*written[row]] for row in rows])
        text = np.pad(text, [(0, 0), (0, extra)])
        length = np.array([len(written[row]) for row in rows])
        found = Slots(*(x[rows] for x in slots))
        if reverse:
            found = Slots(found.tokens[:, :, ::-1], found.log_probs[:, :, ::-1], found.end)
        rules = Rules(least[rows], limit[rows], PAD, EOS, UNK)
        return results(best_paths(links[order - 2], source, text, length, rules, found, 2, weights))

    rows = list(range(36))
    expected = search(rows)
    assert len({str(found[0][0]) for found in expected}) > 15
    for size in (1, 7):
        parts = [search(rows[start : start + size], extra=start % 3) for start in range(0, 36, size)]
        assert sum(parts, []) == expected, f"batches of {size}"
    assert search(rows[::-1], reverse=True)[::-1] == expected


@pytest.mark.parametrize("order", [2, 3])
def test_rows_that_go_on_alone(order):
    """Some rows are left after the first slots: their paths stay what they are."""
    links, sources, written, slots, least, limit = real_batch()

    def search(rows):
        rules = Rules(least[rows], limit[rows], PAD, EOS, UNK)
        length = np.array([len(written[row]) for row in rows])
        source, text = pairs_of([sources[row] for row in rows], links[0].size), padded([written[row] for row in rows])
        return PathSearch(links[order - 2], source, text, length, rules, 2, Weights(0.5, 2.0, 0.3, width=2))

    rows, kept = np.arange(36), np.array([30, 2, 17, 5, 35])
    whole, part = search(rows), search(rows)
    whole.extend(Slots(*(x[:, :4] for x in slots)))
    part.extend(Slots(*(x[:, :4] for x in slots)))
    part.keep(kept)
    assert not part.finished.all()
    whole.extend(Slots(*(x[:, 4:] for x in slots)))
    part.extend(Slots(*(x[kept, 4:] for x in slots)))
    expected = results(whole.best())
    assert results(part.best()) == [expected[row] for row in kept]
    assert (part.finished == whole.finished[kept]).all()


@settings(deadline=None, max_examples=60)
@given(st.data(), st.integers(1, 5), st.sampled_from([3, 40, 700, 1025]))
def test_the_likeliest_are_those_of_a_stable_sort(data, rows, size):
    count = data.draw(st.integers(1, min(20, size)))
    random = np.random.default_rng(data.draw(st.integers(0, 1000)))
    scores = random.integers(0, data.draw(st.sampled_from([2, 50, 10**6])), (rows, 2, size)).astype(np.float32)
    scores[random.random(scores.shape) < 0.1] = -np.inf
    index, found = likeliest(scores, count)
    expected = np.argsort(-scores, axis=-1, kind="stable")[..., :count]
    assert index.tolist() == expected.tolist()
    assert (found == np.take_along_axis(scores, expected, -1)).all()
