"""The network against the reference's numbers, names and options."""

import pytest
import torch
from fairseq.models import ARCH_MODEL_REGISTRY, MODEL_DATACLASS_REGISTRY

from bang import visibility
from bang.network.config import ARCHITECTURES

GOLDEN_NAMES = ("mixed", "nar")


@pytest.mark.parametrize("name", GOLDEN_NAMES)
def test_encoder_and_logits_are_the_reference(name, golden_model, forward_arrays):
    model, arrays = golden_model(name), forward_arrays[name]
    source = arrays["src_tokens"], arrays["src_lengths"]
    real = arrays["target"].ne(0)
    with torch.no_grad():
        encoder_out = model.encoder(*source)["encoder_out"][0]
        torch.testing.assert_close(encoder_out, arrays["encoder_out"], atol=2e-5, rtol=0)
        for mode, layout in (("ar", None), ("nar", visibility.non_autoregressive(real.size(1)))):
            logits, _ = model(*source, arrays["prev_output_tokens"], layout=layout)
            torch.testing.assert_close(logits[real], arrays[f"{mode}_logits"][real], atol=2e-5, rtol=0)
            torch.testing.assert_close(logits.logsumexp(2)[real], arrays[f"{mode}_logsumexp"][real], atol=2e-5, rtol=0)
            assert torch.equal(logits.argmax(2)[real], arrays[f"{mode}_argmax"][real])


@pytest.mark.parametrize("pads", ["right", "left"])
@pytest.mark.parametrize("at_once", [1, 40, 1000])
def test_an_encoder_laid_out_for_decoding_encodes_by_lengths(pads, at_once, golden_model, monkeypatch):
    """The same at real tokens, however many sources go at once."""
    encoder = golden_model("mixed").encoder
    monkeypatch.setattr("bang.network.encoder.AT_ONCE", at_once)
    monkeypatch.setattr(encoder, "in_parts", False)
    source = torch.randint(200, len(encoder.dictionary), (7, 30), generator=torch.Generator().manual_seed(1))
    lengths = torch.tensor([3, 30, 17, 1, 2, 17, 9])
    real = torch.arange(30) < lengths[:, None]
    if pads == "left":
        real = real.flip(1)
    source = source.masked_fill(~real, encoder.padding_idx)
    with torch.no_grad():
        expected = encoder(source, lengths)
        monkeypatch.setattr(encoder, "in_parts", True)
        found = encoder(source, lengths)
    assert found.keys() == expected.keys()
    torch.testing.assert_close(found["encoder_out"][0][real.t()], expected["encoder_out"][0][real.t()], atol=1e-5, rtol=0)
    assert torch.equal(found["encoder_padding_mask"][0], expected["encoder_padding_mask"][0])
    assert torch.equal(found["src_lengths"][0].long(), expected["src_lengths"][0].long())


@pytest.mark.parametrize("name", GOLDEN_NAMES)
def test_a_canvas_of_200_slots_is_the_reference(name, golden_model, forward_arrays):
    model, arrays = golden_model(name), forward_arrays[name]
    with torch.no_grad():
        logits, _ = model(
            arrays["src_tokens"], arrays["src_lengths"], arrays["prev_output_tokens"],
            layout=visibility.non_autoregressive(200),
        )  # fmt: skip
    values, choices = logits.max(2)
    assert torch.equal(choices, arrays["nar200_argmax"])
    torch.testing.assert_close(values, arrays["nar200_max"], atol=2e-5, rtol=0)
    torch.testing.assert_close(logits[:, -1], arrays["nar200_logits_last"], atol=2e-5, rtol=0)


def test_weights_are_named_as_the_reference_names_them(golden_states, golden_model):
    for name in GOLDEN_NAMES:
        own = golden_model(name).state_dict()
        reference = golden_states[name]["model"]
        assert {key: value.shape for key, value in own.items()} == {key: value.shape for key, value in reference.items()}
        for key, value in reference.items():
            assert torch.equal(own[key], value), key


@pytest.mark.parametrize("family", ["bang_ar_nar_mixed", "bang_ar", "bang_nar"])
@pytest.mark.parametrize(
    "suffix,width,ffn,heads,layers",
    [("", 512, 2048, 8, 6), ("_base", 768, 3072, 12, 6), ("_middle", 1024, 4096, 16, 6), ("_large", 1024, 4096, 16, 12)],
)
def test_named_architectures(family, suffix, width, ffn, heads, layers):
    assert set(ARCHITECTURES) == {"", "_base", "_middle", "_large"}
    cfg = MODEL_DATACLASS_REGISTRY[family + suffix]()
    assert family + suffix in ARCH_MODEL_REGISTRY
    for side in ("encoder", "decoder"):
        assert getattr(cfg, f"{side}_embed_dim") == width
        assert getattr(cfg, f"{side}_ffn_embed_dim") == ffn
        assert getattr(cfg, f"{side}_attention_heads") == heads
        assert getattr(cfg, f"{side}_layers") == layers
    pretrained = suffix != ""
    assert cfg.activation_fn == ("gelu" if pretrained else "relu")
    assert (cfg.dropout, cfg.attention_dropout, cfg.activation_dropout) == ((0.1, 0.1, 0.1) if pretrained else (0.1, 0.0, 0.0))
    assert cfg.share_all_embeddings == cfg.share_decoder_input_output_embed == pretrained


def test_the_models_differ_in_the_mode_of_a_plain_pass(make_model, forward_arrays):
    arrays = forward_arrays["mixed"]
    inputs = arrays["src_tokens"], arrays["src_lengths"], arrays["prev_output_tokens"]
    mixed, ar, nar = (make_model(name) for name in ("bang_ar_nar_mixed", "bang_ar", "bang_nar"))
    assert mixed.state_dict().keys() == ar.state_dict().keys() == nar.state_dict().keys()
    with torch.no_grad():
        torch.testing.assert_close(mixed(*inputs)[0], ar(*inputs)[0])
        layout = visibility.non_autoregressive(inputs[2].size(1))
        torch.testing.assert_close(mixed(*inputs, layout=layout)[0], nar(*inputs)[0])
        assert not torch.allclose(mixed(*inputs)[0], nar(*inputs)[0])
        with pytest.raises(ValueError, match="--criterion label_smoothed_cross_entropy"):
            nar(*inputs, layout=visibility.autoregressive(19))
        with pytest.raises(ValueError, match="--nar-ratio 0"):
            ar(*inputs, layout=layout)


def test_initialisation(make_model):
    model = make_model()
    state = model.state_dict()
    for key, value in state.items():
        if key.endswith("in_proj_weight"):
            bound = (6 / (value.size(0) + value.size(1))) ** 0.5  # Xavier uniform
            assert 0.9 * bound < value.abs().max() <= bound
        elif key.endswith("bias"):
            assert value.eq(0).all(), key
        elif "layer_norm" in key:
            assert value.eq(1).all(), key
        elif value.numel() > 2000:
            assert value.std().item() == pytest.approx(0.02, rel=0.1), key


def test_relative_options_reach_the_attention(make_model, forward_arrays):
    arrays = forward_arrays["mixed"]
    inputs = arrays["src_tokens"], arrays["src_lengths"], arrays["prev_output_tokens"]
    few = make_model(num_buckets=8)
    assert few.decoder.layers[0].ngram_self_attn.relative_linear.weight.shape == (8 * 4, 48)
    near, far = make_model(relative_max_distance=17), make_model()
    with torch.no_grad():
        for model in (near, far):  # the term is too small to see at initialisation
            for layer in model.decoder.layers:
                layer.ngram_self_attn.relative_linear.weight.mul_(50)
        assert not torch.allclose(near(*inputs)[0][:, 18], far(*inputs)[0][:, 18])
        torch.testing.assert_close(near(*inputs)[0][:, :16], far(*inputs)[0][:, :16])


def test_embeddings_are_shared_as_told(make_model):
    shared = make_model()
    assert shared.encoder.embed_tokens is shared.decoder.embed_tokens and shared.decoder.embed_out is None
    tied = make_model(share_all_embeddings=False, share_decoder_input_output_embed=True)
    assert tied.encoder.embed_tokens is not tied.decoder.embed_tokens and tied.decoder.embed_out is None
    own = make_model(share_all_embeddings=False)
    assert own.decoder.embed_out.shape == (1389, 48) and "decoder.embed_out" in own.state_dict()


@pytest.mark.parametrize("shared", [True, False])
def test_frozen_layers_learn_nothing_and_the_others_as_ever(shared, make_model, forward_arrays):
    def gradients(**options):
        model = make_model(share_all_embeddings=shared, **options)
        inputs = [forward_arrays["mixed"][key] for key in ("src_tokens", "src_lengths", "prev_output_tokens")]
        model.train()(*inputs)[0].square().sum().backward()
        return {name: weight.grad for name, weight in model.named_parameters()}

    usual, frozen = gradients(), gradients(freeze_encoder_layers=1)
    without = {name for name, gradient in frozen.items() if gradient is None}
    first = {
        name for name in usual if name.startswith(("encoder.embed_positions.", "encoder.emb_layer_norm.", "encoder.layers.0."))
    }
    assert without == first | (set() if shared else {"encoder.embed_tokens.weight"})
    for name in usual.keys() - without - {"encoder.embed_tokens.weight"}:
        torch.testing.assert_close(frozen[name], usual[name], msg=name)
    if shared:
        assert frozen["encoder.embed_tokens.weight"].abs().sum() > 0


@pytest.mark.parametrize(
    "options,message",
    [
        ({"freeze_encoder_layers": 3}, "--freeze-encoder-layers 3: the encoder has 2"),
        ({"decoder_embed_dim": 64}, "--share-all-embeddings needs one width"),
        ({"num_buckets": 1}, "--num-buckets 1"),
        ({"relative_max_distance": 16}, "--relative-max-distance 16"),
        ({"decoder_attention_heads": 5}, "--decoder-attention-heads 5: give a number that divides --decoder-embed-dim 48"),
        ({"encoder_attention_heads": 7}, "--encoder-attention-heads 7: give a number that divides --encoder-embed-dim 48"),
        ({"encoder_attention_heads": 0}, "--encoder-attention-heads 0: give"),
    ],
)
def test_impossible_sizes(make_model, options, message):
    with pytest.raises(ValueError, match=message):
        make_model(**options)


def _half_agrees(model, arrays, dtype, device, tolerance):
    inputs = [arrays[key].to(device) for key in ("src_tokens", "src_lengths", "prev_output_tokens")]
    model = model.to(device=device, dtype=dtype)
    real = arrays["target"].ne(0)
    for mode, layout in (("ar", None), ("nar", visibility.non_autoregressive(real.size(1)))):
        with torch.no_grad():
            output = model(*inputs, layout=layout)
            lprobs = model.get_normalized_probs(output, log_probs=True)
        assert output[0].dtype == dtype and lprobs.dtype == torch.float32
        expected = arrays[f"{mode}_logits"].log_softmax(2)
        difference = (lprobs.cpu() - expected)[real].abs()
        assert difference.median() < tolerance, (mode, difference.median(), difference.max())


@pytest.mark.parametrize("name", GOLDEN_NAMES)
def test_bf16_on_the_cpu(name, golden_model, forward_arrays):
    _half_agrees(golden_model(name), forward_arrays[name], torch.bfloat16, "cpu", 0.2)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype,tolerance", [(torch.float16, 0.03), (torch.bfloat16, 0.2), (torch.float32, 1e-4)])
@pytest.mark.parametrize("name", GOLDEN_NAMES)
def test_on_a_gpu(name, dtype, tolerance, golden_model, forward_arrays):
    _half_agrees(golden_model(name), forward_arrays[name], dtype, "cuda", tolerance)


def test_extract_features_keeps_fairseqs_contract(golden_model, forward_arrays):
    model, arrays = golden_model("mixed"), forward_arrays["mixed"]
    inputs = arrays["src_tokens"], arrays["src_lengths"], arrays["prev_output_tokens"]
    with torch.no_grad():
        features, extra = model.extract_features(*inputs)
        encoder_out = model.encoder(*inputs[:2])
        again, _ = model.decoder.extract_features(inputs[2], encoder_out=encoder_out)
        logits, _ = model(*inputs)
    assert features.shape == (*inputs[2].shape, 48) and set(extra) == {"attn", "inner_states"}
    assert torch.equal(features, again) and torch.equal(model.output_layer(features), logits)


def test_a_misspelt_argument_is_an_error(golden_model, forward_arrays):
    model, arrays = golden_model("mixed"), forward_arrays["mixed"]
    inputs = arrays["src_tokens"], arrays["src_lengths"], arrays["prev_output_tokens"]
    with pytest.raises(TypeError, match="layuot"):
        model(*inputs, layuot=visibility.autoregressive(3))
    with pytest.raises(TypeError, match="positoins"):
        model.decoder(inputs[2], model.encoder(*inputs[:2]), positoins=None)
