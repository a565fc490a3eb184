"""Hidden spans: every number against plain loops, and the shares against sampling error."""

import numpy as np
import pytest

from bang.plugin.pretraining.masking import SpanMasking, block_generator, choose_spans, hide_spans

MASK, EOS = 103, 102
PIECES = np.arange(5000, 5050)  # no block below holds any of them, so a drawn piece is seen to be one


def recipe(**options):
    return SpanMasking(**{"mask": MASK, "eos": EOS, "pieces": PIECES, **options})


def random_block(length, seed=0):
    return np.random.default_rng(seed).integers(1000, 3000, length)


def runs(positions):
    """Consecutive numbers as [first, last] pairs; a run also ends where a chunk of 64 does."""
    found = []
    for p in positions:
        if found and p == found[-1][1] + 1 and (p - 1) % 64:
            found[-1][1] = p
        else:
            found.append([p, p])
    return found


def check_by_plain_loops(block, hidden):
    """Rebuilds target, prev, target_idx and the visible part of the source from the positions alone."""
    expected_target, expected_prev, expected_idx = [], [], []
    for first, last in runs(hidden.positions.tolist()):
        for p in range(first, last + 1):
            expected_target.append(block[p - 1])
            expected_prev.append(EOS if p == 1 else block[p - 2])
            expected_idx.append(p - first)
    assert hidden.target.tolist() == expected_target
    assert hidden.prev_output_tokens.tolist() == expected_prev
    assert hidden.target_idx.tolist() == expected_idx
    for i, piece in enumerate(block):
        if i + 1 in hidden.positions:
            assert hidden.source[i] == MASK or hidden.source[i] == piece or hidden.source[i] in PIECES
        else:
            assert hidden.source[i] == piece


def test_every_number_of_a_block():
    for index, length in enumerate([1, 2, 8, 9, 10, 63, 64, 65, 72, 73, 128, 200, 500, 511, 512] * 4):
        block = random_block(length, index)
        before = block.copy()
        hidden = hide_spans(block, recipe(), block_generator(1, 1, index))
        assert (block == before).all(), "the caller's block must stay as it is"
        assert all(array.dtype == np.int64 for array in hidden)
        check_by_plain_loops(block, hidden)


@pytest.mark.parametrize(
    "length, spans",
    [
        (1, [{1}]), (2, [{1}]), (7, [{1}]),  # at least one piece
        (8, [{1, 2}]), (9, [{1, 2}]), (31, [{4, 5}]), (63, [{8, 9}]), (64, [{9}]),
        (65, [{9}, {0, 1}]), (72, [{9}, {1, 2}]), (128, [{9}, {9}]), (160, [{9}, {9}, {4, 5}]),
        (512, [{9}] * 8),
    ],
)  # fmt: skip
def test_spans_of_a_length(length, spans):
    seen = [set() for _ in spans]
    for index in range(200):
        hidden = hide_spans(random_block(length), recipe(), block_generator(1, 1, index))
        sizes = [0] * len(spans)
        for first, last in runs(hidden.positions.tolist()):
            chunk = (first - 1) // 64
            assert sizes[chunk] == 0 and last <= 64 * chunk + 64, "one span a chunk, within it"
            sizes[chunk] = last - first + 1
        for chunk, size in enumerate(sizes):
            seen[chunk].add(size)
    assert seen == spans


@pytest.mark.parametrize("options", [{}, {"mask_block": 20, "mask_length": 3}, {"mask_length": 64}])
def test_the_share_is_the_same_at_every_length(options):
    """On average of many blocks, within four standard errors; below one piece a block it is one piece."""
    masking, trials = recipe(**options), 400
    for length in (*range(2, 70), *range(70, 200, 13), 200):  # a chunk is of 64 or 20 pieces
        counts = [choose_spans(length, masking, block_generator(3, 1, 1000 * length + i))[1].sum() for i in range(trials)]
        expected = length * masking.mask_length / masking.mask_block
        assert max(counts) - min(counts) <= 1
        if expected < 1:
            assert set(counts) == {1}
        else:
            part = expected % 1
            assert abs(np.mean(counts) - expected) <= 4 * (part * (1 - part) / trials) ** 0.5 + 1e-9, length


def chi_square(counts):
    """How far counts are from equal, in standard deviations of the chi-square distribution."""
    expected = sum(counts) / len(counts)
    freedom = len(counts) - 1
    return (sum((c - expected) ** 2 / expected for c in counts) - freedom) / (2 * freedom) ** 0.5


def test_statistics_over_ten_thousand_blocks():
    block, masking = random_block(512), recipe()
    starts, fates, drawn = np.zeros((8, 56)), {"mask": 0, "random": 0, "same": 0}, np.zeros(len(PIECES))
    for index in range(10_000):
        hidden = hide_spans(block, masking, block_generator(7, 3, index))
        assert len(hidden.target) == 72
        first = hidden.positions.reshape(8, 9)[:, 0] - 1
        starts[np.arange(8), first - 64 * np.arange(8)] += 1  # an index error here: a span left its chunk
        read = hidden.source[hidden.positions - 1]
        fates["mask"] += (read == MASK).sum()
        fates["same"] += (read == hidden.target).sum()
        is_drawn = np.isin(read, PIECES)
        fates["random"] += is_drawn.sum()
        np.add.at(drawn, read[is_drawn] - PIECES[0], 1)
    total = 10_000 * 72
    assert sum(fates.values()) == total
    for fate, share in (("mask", 0.8), ("random", 0.1), ("same", 0.1)):
        error = (share * (1 - share) / total) ** 0.5
        assert abs(fates[fate] / total - share) < 4 * error, fate
    for chunk in starts:
        assert chi_square(chunk) < 5
    assert chi_square(starts.sum(0)) < 5
    assert chi_square(drawn) < 5


@pytest.mark.parametrize("chunks", [0, 1])
def test_starts_of_a_short_chunk_are_uniform_too(chunks):
    """20 pieces: a span of 2 or 3, so 19 or 18 starts."""
    counts = {2: np.zeros(19), 3: np.zeros(18)}
    for index in range(6_000):
        starts, sizes = choose_spans(64 * chunks + 20, recipe(), block_generator(1, 1, index))
        counts[sizes[-1]][starts[-1] - 64 * chunks] += 1
    assert all(count.sum() > 1000 and chi_square(count) < 5 for count in counts.values())


def test_shares_of_nothing_and_of_everything():
    block = random_block(512)
    for share, read in ((1.0, lambda h: h.source[h.positions - 1] == MASK),
                        (0.0, lambda h: h.source[h.positions - 1] == h.target)):  # fmt: skip
        hidden = hide_spans(block, recipe(mask_share=share, random_share=0.0), block_generator(1, 1, 1))
        assert read(hidden).all()


def test_masks_follow_seed_epoch_and_index_alone():
    block = random_block(512)

    def source(*numbers):
        return hide_spans(block, recipe(), block_generator(*numbers)).source.tolist()

    assert source(1, 2, 3) == source(1, 2, 3)
    assert len({tuple(source(*n)) for n in [(1, 2, 3), (2, 2, 3), (1, 3, 3), (1, 2, 4), (3, 2, 1)]}) == 5


@pytest.mark.parametrize(
    "options, named",
    [
        ({"mask_length": 0}, "--mask-length 0"),
        ({"mask_length": 65}, "--mask-block 64"),
        ({"mask_block": 8}, "--mask-length 9"),
        ({"mask_share": 1.1}, "--mask-share 1.1"),
        ({"random_share": -0.1}, "--random-share -0.1"),
        ({"mask_share": 0.9, "random_share": 0.2}, "--random-share 0.2"),
    ],
)
def test_a_mistake_in_an_option_is_named(options, named):
    with pytest.raises(ValueError, match=named) as error:
        recipe(**options)
    assert "\n" not in str(error.value)


def test_shares_may_fill_the_whole():
    recipe(mask_share=0.7, random_share=0.3)
    recipe(mask_length=64)
