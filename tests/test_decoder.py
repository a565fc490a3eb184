"""The decoder sees what the rule says, and no more: probed by brute force, in every mode."""

import numpy as np
import pytest
import torch
from bang import visibility
from bang.network.attention import make_view

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


@pytest.mark.parametrize("block", [1, 2, 4, 5])
def test_semi_nar_steps_equal_teacher_forcing(decode, block):
    with torch.no_grad():
        whole = decode(visibility.semi_autoregressive(LENGTH, block))
        state, steps = {}, []
        for main in range(1, LENGTH + 1, block):
            steps.append(decode(visibility.next_block(main, block), decode.tokens[:, :main], incremental_state=state))
        torch.testing.assert_close(torch.cat(steps, 1), whole, atol=1e-5, rtol=0)


@pytest.mark.parametrize("sizes", [[6], [1, 5], [2, 2, 2], [1] * 6])
def test_a_canvas_in_pieces_is_the_canvas(decode, sizes):
    with torch.no_grad():
        state, pieces = {}, []
        for size in sizes:
            layout = visibility.non_autoregressive(size)
            pieces.append(decode(layout, incremental_state=state))
        torch.testing.assert_close(torch.cat(pieces, 1), decode(LAYOUTS["nar"]), atol=1e-5, rtol=0)


def test_cached_autoregressive_equals_uncached(decode):
    with torch.no_grad():
        state = {}
        steps = [decode(None, decode.tokens[:, : t + 1], incremental_state=state) for t in range(LENGTH)]
        torch.testing.assert_close(torch.cat(steps, 1), decode(None), atol=1e-5, rtol=0)


def test_select_projects_the_same_features(decode):
    layout = LAYOUTS["3 streams"]
    select = torch.rand(1, LENGTH * 3) < 0.5
    with torch.no_grad():
        torch.testing.assert_close(decode(layout, select=select), decode(layout)[select], atol=1e-6, rtol=0)


def test_explicit_positions_are_the_reference(forward_arrays, golden_model):
    for name in ("mixed", "nar"):
        arrays, model = forward_arrays[name], golden_model(name)
        length = arrays["pretrain_positions"].size(1)
        layout = visibility.autoregressive(length)
        view = make_view(layout, arrays["pretrain_positions"], 0, 0, torch.tensor(visibility.bucket_table()), None)
        assert torch.equal(view.main_bucket.int(), arrays["pretrain_bucket_main"])
        # the reference lists all main tokens, then all slots; a slot of ours sees its own slot alone
        predict = arrays["pretrain_bucket_predict"]
        assert torch.equal(view.slot_main_bucket.int()[:, :, :length].tril(), predict[:, :, :length].tril())
        own = predict[:, :, length:].diagonal(dim1=1, dim2=2)
        assert torch.equal(view.slot_bucket.int().flatten(), own.flatten())
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
