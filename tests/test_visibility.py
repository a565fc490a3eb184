"""The rule, against the paper's table written as plain loops."""

import subprocess
import sys

import numpy as np
import pytest
import torch

from bang import visibility


def seen(layout, slot):
    """Main tokens and slots (as targets) that a slot (block, index) sees; numpy and torch agree."""
    group, index = slot
    block = visibility.places((layout.block_size,) * layout.groups)
    answers = []
    for kind in (np.asarray, torch.from_numpy):
        main = visibility.sees_main(kind(layout.anchor), kind(np.arange(layout.main_length)))
        slots = visibility.sees_slot(*map(kind, block), *map(kind, block))
        answers.append((np.asarray(main), np.asarray(slots)))
    (main, slots), (main_again, slots_again) = answers
    assert (main == main_again).all() and (slots == slots_again).all()
    query = group * layout.block_size + index
    return main[group].nonzero()[0].tolist(), layout.target.flatten()[slots[query]].tolist()


@pytest.mark.parametrize("length", [1, 2, 7])
def test_autoregressive(length):
    layout = visibility.autoregressive(length)
    for t in range(length):
        assert seen(layout, (t, 0)) == (list(range(t + 1)), [t])


@pytest.mark.parametrize("length", [1, 2, 7])
def test_non_autoregressive(length):
    layout = visibility.non_autoregressive(length)
    for t in range(length):
        assert seen(layout, (0, t)) == ([], list(range(t + 1)))


@pytest.mark.parametrize("length,block", [(7, 3), (6, 3), (4, 1), (3, 8)])
def test_semi_autoregressive(length, block):
    layout = visibility.semi_autoregressive(length, block)
    for t in range(length):
        start = t // block * block
        assert layout.target[t // block, t % block] == t
        # all before its block: the start symbol and `start` tokens
        assert seen(layout, (t // block, t % block)) == (list(range(start + 1)), list(range(start, t + 1)))


@pytest.mark.parametrize("length,ngram", [(6, 1), (6, 3), (4, 9)])
def test_streams(length, ngram):
    layout = visibility.streams(length, ngram)
    for stream in range(ngram):
        for t in range(stream, length):
            slot = (t - stream, stream)
            assert layout.target[slot] == t
            main, slots = seen(layout, slot)
            assert main == list(range(t - stream + 1))  # all up to `stream` before t
            # stream 0's slot at t - stream, ..., its own at t
            assert slots == [t - stream + other for other in range(stream + 1)]


def test_autoregressive_is_both_ends_of_the_others():
    assert visibility.autoregressive(5) == visibility.streams(5, 1)
    one = visibility.semi_autoregressive(5, 5)
    assert (one.target == visibility.non_autoregressive(5).target).all()
    assert one.anchor.tolist() == [0]  # but it has the start symbol, which NAR has not


def test_decoding_steps_continue_the_training_layout():
    whole = visibility.semi_autoregressive(12, 4)
    for group in range(3):
        step = visibility.Layout(1, 4, 4 * group, 0, 4 * group + 1)
        assert (step.target[0] == whole.target[group]).all() and step.anchor[0] == whole.anchor[group]


@pytest.mark.parametrize(
    "layout",
    [
        visibility.streams(7, 3), visibility.semi_autoregressive(7, 3), visibility.autoregressive(1),
        visibility.non_autoregressive(5), visibility.Layout(1, 3, 3, 0, 4),
    ],
)  # fmt: skip
def test_last_target_is_the_highest(layout):
    assert layout.last_target == layout.target.max()


def test_blocks_of_several_sizes():
    block, index = visibility.places((2, 0, 3))
    assert block.tolist() == [0, 0, 2, 2, 2] and index.tolist() == [0, 1, 0, 1, 2]
    assert visibility.sees_slot(block, index, block, index).astype(int).tolist() == [
        [1, 0, 0, 0, 0], [1, 1, 0, 0, 0], [0, 0, 1, 0, 0], [0, 0, 1, 1, 0], [0, 0, 1, 1, 1],
    ]  # fmt: skip
    assert [len(part) for part in visibility.places(())] == [0, 0]


def test_rows_of_their_own_lengths():
    last = np.array([[0, 1], [3, 4]])
    assert visibility.sees_main(last, np.arange(5)).sum(2).tolist() == [[1, 2], [4, 5]]


@pytest.mark.parametrize("block", [0, -3])
def test_empty_blocks_are_refused(block):
    with pytest.raises(ValueError, match="--block-size"):
        visibility.semi_autoregressive(5, block)


def test_distance():
    assert visibility.distance(torch.tensor([5, 40]), torch.tensor([2, 41])).tolist() == [[3, -36], [38, -1]]


def test_buckets_are_the_reference_table(forward_arrays):
    table = visibility.bucket_table()
    for arrays in forward_arrays.values():
        found = visibility.bucket(arrays["bucket_distance"], torch.tensor(table))
        assert torch.equal(found.int(), arrays["bucket_index"])
        assert (visibility.bucket(arrays["bucket_distance"].numpy(), table) == found.numpy()).all()


def test_bucket_options():
    near = visibility.bucket(np.arange(-3, 200), visibility.bucket_table(num_buckets=8, max_distance=20))
    assert near[:4].tolist() == [0, 0, 0, 0] and near[3:7].tolist() == [0, 1, 2, 3]
    assert near.max() == 7 and near[3 + 20] == 7 and (np.diff(near) >= 0).all()


def test_the_rule_needs_no_torch():
    subprocess.run([sys.executable, "-c", "import sys; import bang.visibility; assert 'torch' not in sys.modules"], check=True)
