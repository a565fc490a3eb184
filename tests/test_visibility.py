"""The rule, against the paper's table written as plain loops."""

import pytest
import torch
from bang import visibility


def seen(layout, slot):
    """Main tokens and slots (as targets) that a slot (block, index) sees."""
    group, index = slot
    main = visibility.slot_sees_main(layout)[group].nonzero().flatten().tolist()
    slots = layout.target[group][visibility.slot_sees_slot(layout.blocks[1])[index]].tolist()
    return main, slots


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
    for a, b in zip(visibility.autoregressive(5), visibility.streams(5, 1)):
        assert torch.equal(torch.as_tensor(a), torch.as_tensor(b))
    one = visibility.semi_autoregressive(5, 5)
    assert torch.equal(one.target, visibility.non_autoregressive(5).target)
    assert one.anchor.tolist() == [0]  # but it has the start symbol, which NAR has not


def test_decoding_steps_continue_the_training_layout():
    whole = visibility.semi_autoregressive(12, 4)
    for group in range(3):
        step = visibility.next_block(4 * group + 1, 4)
        assert torch.equal(step.target[0], whole.target[group]) and step.anchor[0] == whole.anchor[group]
    pieces = [visibility.non_autoregressive(size, start).target for start, size in ((0, 5), (5, 2))]
    assert torch.equal(torch.cat(pieces, 1), visibility.non_autoregressive(7).target)


def test_causal_masks_with_a_cache():
    assert visibility.main_sees_main(2, 3).tolist() == [[True] * 4 + [False], [True] * 5]
    assert visibility.slot_sees_slot(2, 1).tolist() == [[True, True, False], [True, True, True]]


@pytest.mark.parametrize("block", [0, -3])
def test_empty_blocks_are_refused(block):
    with pytest.raises(ValueError, match="--block-size"):
        visibility.semi_autoregressive(5, block)


def test_distance():
    assert visibility.distance(torch.tensor([5, 40]), torch.tensor([2, 41])).tolist() == [[3, -36], [38, -1]]


def test_buckets_are_the_reference_table(forward_arrays):
    for arrays in forward_arrays.values():
        assert torch.equal(visibility.bucket(arrays["bucket_distance"]).int(), arrays["bucket_index"])


def test_bucket_options():
    near = visibility.bucket(torch.arange(-3, 200), num_buckets=8, max_distance=20)
    assert near[:4].tolist() == [0, 0, 0, 0] and near[3:7].tolist() == [0, 1, 2, 3]
    assert near.max() == 7 and near[3 + 20] == 7 and (near.diff() >= 0).all()
