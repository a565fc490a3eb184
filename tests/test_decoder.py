"""The decoder sees what the rule says, and no more: probed by brute force, in every mode."""

import weakref

import numpy as np
import pytest
import torch

from bang import visibility
from bang.network.attention import make_layout_masks
from bang.network.stepping import Cache, plain_pass_masks

SPAN_POSITIONS = torch.tensor([[3, 4, 5, 40, 41, 42]])
LENGTH = 6
LAYOUTS = {
    "ar": visibility.autoregressive(LENGTH),
    "semi-nar": visibility.semi_autoregressive(LENGTH, 4),
    "nar": visibility.non_autoregressive(LENGTH),
    "3 streams": visibility.streams(LENGTH, 3),
    "9 streams": visibility.streams(LENGTH, 9),
}


def sees_main(layout):
    """Bool (G, P)"""
    return visibility.sees_main(layout.anchor, np.arange(layout.main_length))


@pytest.fixture
def decode(golden_model, forward_arrays):
    """Decodes the first golden sentences with a layout; the golden weights make every link count."""
    model = golden_model("mixed")
    arrays = forward_arrays["mixed"]
    with torch.no_grad():
        encoder_out = model.encoder(arrays["src_tokens"][:1], src_lengths=arrays["src_lengths"][:1])
    tokens = arrays["prev_output_tokens"][:1, :LENGTH]

    def call(layout, tokens=tokens, **kwargs):
        return model.decoder(tokens, encoder_out, layout=layout, **kwargs)[0]

    call.model, call.tokens, call.encoder_out = model, tokens, encoder_out
    return call


@pytest.mark.parametrize("positions", [None, SPAN_POSITIONS], ids=["side by side", "spans"])
@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS.keys())
def test_a_main_token_reaches_just_the_slots_that_see_it(decode, layout, positions):
    with torch.no_grad():
        before = decode(layout, positions=positions)
        sees = torch.from_numpy(sees_main(layout).repeat(layout.block_size, 0))  # (G * K, P)
        for token in range(LENGTH):
            changed = decode.tokens.clone()
            changed[0, token] = 700 + token
            moved = (decode(layout, changed, positions=positions) - before).abs().amax(2)[0] > 1e-6
            expected = sees[:, token] if layout.main_length else torch.zeros(LENGTH, dtype=torch.bool)
            assert torch.equal(moved, expected)


@pytest.mark.parametrize("positions", [None, SPAN_POSITIONS], ids=["side by side", "spans"])
@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS.keys())
def test_a_slot_reaches_just_the_slots_that_see_it(decode, layout, positions):
    """Gradient of each output with respect to each slot's input, by a hook on the embedded input."""
    decoder = decode.model.decoder
    held = []

    def keep(module, inputs, output):
        held.append(output)
        output.retain_grad()

    handle = decoder.dropout_module.register_forward_hook(keep)
    logits = decode(layout, positions=positions)
    handle.remove()
    groups, block = layout.groups, layout.block_size
    within = torch.ones(block, block, dtype=torch.bool).tril()
    main = layout.main_length
    for query in range(groups * block):
        held[0].grad = None
        logits[0, query].square().sum().backward(retain_graph=True)
        reached = held[0].grad[0].abs().sum(1) > 0
        expected = torch.zeros(main + groups * block, dtype=torch.bool)
        group, index = divmod(query, block)
        expected[main + group * block : main + (group + 1) * block] = within[index]
        if main:
            expected[:main] = torch.from_numpy(sees_main(layout)[group])
        assert torch.equal(reached, expected)


def test_stream_zero_is_autoregressive(decode):
    with torch.no_grad():
        ar = decode(LAYOUTS["ar"])
        for name in ("3 streams", "9 streams"):
            streams = decode(LAYOUTS[name]).unflatten(1, LAYOUTS[name][:2])
            torch.testing.assert_close(streams[:, :, 0], ar, atol=1e-5, rtol=0)


def test_first_slots_of_the_streams_are_nar_with_the_start_symbol(decode):
    one_block = visibility.semi_autoregressive(LENGTH, LENGTH)  # NAR that is given the bos key
    with torch.no_grad():
        streams = decode(LAYOUTS["9 streams"]).unflatten(1, LAYOUTS["9 streams"][:2])
        torch.testing.assert_close(streams[:, 0, :LENGTH], decode(one_block), atol=1e-5, rtol=0)


def test_semi_nar_with_blocks_of_one_is_autoregressive(decode):
    with torch.no_grad():
        torch.testing.assert_close(decode(visibility.semi_autoregressive(LENGTH, 1)), decode(None), atol=0, rtol=0)


def steps(decode, passes):
    """The slots' logits of passes that share a cache: (first column, tokens fed, anchors or None, block sizes)."""
    decoder = decode.model.decoder
    cache = Cache(decoder, decode.encoder_out, rows=1)
    with torch.no_grad():
        for first, fed, anchors, sizes in passes:
            cached = fed if anchors is not None else sizes[0]
            masks = plain_pass_masks(first, cached, anchors, sizes, decoder.buckets, decode.tokens.device)
            features, _ = decoder.step(decode.tokens[:, first : first + fed], masks, cache)
            yield decoder.output_layer(features)


@pytest.mark.parametrize("block", [1, 2, 4, 5])
def test_semi_nar_steps_equal_teacher_forcing(decode, block):
    starts = range(0, LENGTH, block)
    passes = [(max(start - block + 1, 0), min(block, start + 1), (start,), (block,)) for start in starts]
    with torch.no_grad():
        whole = decode(visibility.semi_autoregressive(LENGTH, block))
    torch.testing.assert_close(torch.cat(list(steps(decode, passes)), 1), whole, atol=1e-5, rtol=0)


@pytest.mark.parametrize("sizes", [[6], [1, 5], [2, 2, 2], [1] * 6])
def test_a_canvas_in_pieces_is_the_canvas(decode, sizes):
    passes = [(sum(sizes[:piece]), 0, None, (size,)) for piece, size in enumerate(sizes)]
    with torch.no_grad():
        whole = decode(LAYOUTS["nar"])
    torch.testing.assert_close(torch.cat(list(steps(decode, passes)), 1), whole, atol=1e-5, rtol=0)


def test_masks_of_long_passes_are_not_kept():
    """Those of every length up to 512 would take 400 MB."""
    buckets, device, made = (32, 128), torch.device("cpu"), []
    for length in range(8, 513, 24):
        masks = [
            plain_pass_masks(0, length, None, (), buckets, device),
            plain_pass_masks(length, 4, (length,), (4,), buckets, device),
        ]
        made += [(x.nbytes, weakref.ref(x)) for of_pass in masks for x in (of_pass.hidden, of_pass.bucket)]
    kept = sum(size for size, x in made if x() is not None)
    assert 0 < kept < 4e6 < sum(size for size, _ in made)


def test_blocks_on_several_anchors_equal_the_streams(decode):
    """A pass that drafts and verifies: blocks of several sizes, hanging on new and on cached tokens."""
    with torch.no_grad():
        streams = decode(LAYOUTS["3 streams"]).unflatten(1, (LENGTH, 3))
    first, second = steps(decode, [(0, 3, (0, 2), (1, 3)), (3, 2, (1, 3, 4), (3, 2, 1))])
    wanted = [streams[:, 0, :1], streams[:, 2], streams[:, 1], streams[:, 3, :2], streams[:, 4, :1]]
    torch.testing.assert_close(torch.cat([first, second], 1), torch.cat(wanted, 1), atol=1e-5, rtol=0)


def test_cached_autoregressive_equals_uncached(decode):
    with torch.no_grad():
        state = {}
        steps = [decode(None, decode.tokens[:, : t + 1], incremental_state=state) for t in range(LENGTH)]
        torch.testing.assert_close(torch.cat(steps, 1), decode(None), atol=1e-5, rtol=0)


def test_explicit_positions_are_the_reference(forward_arrays, golden_model):
    for name in ("mixed", "nar"):
        arrays, model = forward_arrays[name], golden_model(name)
        length = arrays["pretrain_positions"].size(1)
        layout = visibility.autoregressive(length)
        masks = make_layout_masks(layout, arrays["pretrain_positions"], torch.tensor(visibility.bucket_table()))
        assert torch.equal(masks.main_bucket.int(), arrays["pretrain_bucket_main"])
        # the reference lists all main tokens, then all slots; a slot of ours sees its own slot alone
        predict = arrays["pretrain_bucket_predict"]
        assert torch.equal(masks.slot_main_bucket.int()[:, :, :length].tril(), predict[:, :, :length].tril())
        own = predict[:, :, length:].diagonal(dim1=1, dim2=2)
        assert torch.equal(masks.slot_bucket.int().flatten(), own.flatten())
        with torch.no_grad():
            logits, _ = model(
                arrays["src_tokens"][:1], arrays["src_lengths"][:1], arrays["prev_output_tokens"][:1, :length],
                positions=arrays["pretrain_positions"],
            )  # fmt: skip
        torch.testing.assert_close(logits, arrays["pretrain_ar_logits"], atol=2e-5, rtol=0)
        torch.testing.assert_close(logits.logsumexp(2), arrays["pretrain_ar_logsumexp"], atol=2e-5, rtol=0)


def test_attention_on_the_source_is_given_when_asked_for(decode):
    decode.model.make_generation_fast_(need_attn=True)
    logits, extra = decode.model.decoder(decode.tokens, decode.encoder_out)
    attn = extra["attn"][0]
    assert attn.shape == (1, LENGTH, decode.encoder_out["encoder_out"][0].size(0))
    torch.testing.assert_close(attn.sum(2), torch.ones(1, LENGTH))
