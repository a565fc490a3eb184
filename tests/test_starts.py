"""Public starts: BERT's weights compute what they computed there; what does not fit is refused."""

import logging
import os
from argparse import Namespace

import pytest
import torch
from safetensors.torch import load_file, save_file
from support.foreign_models import MASK, PAD, bert_output, edit_config, edit_vocabulary, edit_weights, encode, source
from transformers import BertForMaskedLM

from bang import starts, visibility
from bang.starts.adapt import spread


@pytest.fixture
def make_gelu_model(make_model):
    return lambda **options: make_model(**{"activation_fn": "gelu", "encoder_layers": 3, **options})


def test_the_encoder_is_bert(bert, bert_folder, make_gelu_model):
    model = make_gelu_model()
    starts.load_into(model, str(bert_folder))
    tokens = source()
    ours, theirs = encode(model, tokens), bert_output(bert, tokens)
    real = tokens != PAD
    assert (ours - theirs)[real].abs().max() < 2e-5
    assert theirs[real].std() > 0.5  # the comparison says something


@pytest.mark.parametrize("form", ["prefix, old names, heads", "bin", "bare file", "half precision"])
def test_every_form_of_a_bert_is_the_same_start(form, bert_folder, make_gelu_model, tmp_path):
    expected = make_gelu_model()
    starts.load_into(expected, str(bert_folder))
    weights_file = bert_folder / "model.safetensors"
    weights, path = load_file(weights_file), bert_folder
    if form == "prefix, old names, heads":
        for new, old in (("LayerNorm.weight", "LayerNorm.gamma"), ("LayerNorm.bias", "LayerNorm.beta")):
            weights = {name.replace(new, old): value for name, value in weights.items()}
        weights = {f"bert.{name}": value for name, value in weights.items()}
        weights["cls.predictions.bias"] = torch.zeros(7)
        weights["bert.embeddings.position_ids"] = torch.arange(512)[None]
        save_file(weights, weights_file)
    elif form == "bin":
        weights_file.unlink()
        torch.save(weights, bert_folder / "pytorch_model.bin")
    elif form == "bare file":
        path = tmp_path / "alone.safetensors"
        weights_file.rename(path)
    else:
        save_file({name: value.half() for name, value in weights.items()}, weights_file)
    model = make_gelu_model()
    starts.load_into(model, str(path))
    tolerance = 2e-3 if form == "half precision" else 0
    for name, value in expected.state_dict().items():
        assert torch.allclose(model.state_dict()[name], value, atol=tolerance, rtol=0), name


def test_what_a_masked_language_model_saves_is_a_start(bert, make_gelu_model, tmp_path):
    whole = BertForMaskedLM(bert.config)
    whole.bert.load_state_dict({name: value for name, value in bert.state_dict().items() if "pooler" not in name})
    whole.save_pretrained(tmp_path)
    model = make_gelu_model()
    starts.load_into(model, str(tmp_path))
    tokens = source()[:1]
    assert (encode(model, tokens) - bert_output(bert, tokens)).abs().max() < 2e-5


def test_the_decoder_starts_from_bert_too(bert, bert_folder, make_gelu_model):
    model = make_gelu_model(decoder_layers=3)
    starts.load_into(model, str(bert_folder))
    ours, theirs = model.state_dict(), bert.state_dict()
    assert torch.equal(ours["decoder.embed_tokens.weight"], theirs["embeddings.word_embeddings.weight"])
    assert torch.equal(ours["decoder.ngram_input_embed.weight"][0], theirs["embeddings.word_embeddings.weight"][MASK])
    types = theirs["embeddings.token_type_embeddings.weight"][0]
    for row in (1, 2, 512):
        expected = theirs["embeddings.position_embeddings.weight"][row - 1] + types
        assert torch.equal(ours["decoder.embed_positions.weight"][row], expected)
    for layer in range(3):
        parts = [theirs[f"encoder.layer.{layer}.attention.self.{part}.weight"] for part in ("query", "key", "value")]
        assert torch.equal(ours[f"decoder.layers.{layer}.ngram_self_attn.in_proj_weight"], torch.cat(parts))
        for part, value in zip("qkv", parts):
            assert torch.equal(ours[f"decoder.layers.{layer}.encoder_attn.{part}_proj.weight"], value)
        assert not ours[f"decoder.layers.{layer}.ngram_self_attn.relative_linear.weight"].any()


class NoSource(torch.nn.Module):
    def forward(self, query, **unused):
        return torch.zeros_like(query), None


def test_a_slot_sees_what_bert_sees_at_mask(bert, bert_folder, make_gelu_model):
    """Without its attention on the source, the decoder's first NAR slot is BERT's [MASK] at position 1."""
    model = make_gelu_model(decoder_layers=3)
    starts.load_into(model, str(bert_folder))
    for layer in model.decoder.layers:  # what BERT lacks is taken out: x + 0, no second norm
        layer.encoder_attn, layer.encoder_attn_layer_norm = NoSource(), torch.nn.Identity()
    tokens = source()[:1]
    with torch.no_grad():
        encoder_out = model.encoder(tokens, src_lengths=torch.tensor([9]))
        features, _ = model.decoder.extract_features(tokens[:, :1], encoder_out, None, visibility.non_autoregressive(1))
        theirs = bert(torch.tensor([[MASK]]), position_ids=torch.tensor([[1]])).last_hidden_state
    assert (features - theirs).abs().max() < 2e-5


def test_the_attention_on_the_source_is_a_copy_of_the_self_attention(bert_folder):
    weights = starts.read(str(bert_folder)).weights
    source = [name for name in weights if name.startswith("decoder.layers.1.encoder_attn")]
    assert len(source) == 10  # four projections and a norm
    for name in source:
        theirs = name.replace("decoder", "encoder").replace("encoder_attn", "self_attn")
        assert torch.equal(weights[name], weights[theirs])


def test_fewer_layers_are_evenly_spread_or_named(bert_folder, make_gelu_model, caplog):
    whole = starts.read(str(bert_folder)).weights
    model = make_gelu_model(encoder_layers=2, decoder_layers=1, pretrained_decoder_layers="2")
    with caplog.at_level(logging.INFO):
        starts.load_into(model, str(bert_folder))
    assert "the encoder starts from layers 0, 2 of 3" in caplog.text
    own = model.state_dict()
    for ours, theirs in (("encoder.layers.1", "encoder.layers.2"), ("decoder.layers.0", "decoder.layers.2")):
        assert torch.equal(own[f"{ours}.fc1.weight"], whole[f"{theirs}.fc1.weight"])


def test_spread():
    assert spread(6, 6) == list(range(6))
    assert spread(3, 6) == [0, 2, 5] and spread(6, 12) == [0, 2, 4, 7, 9, 11] and spread(1, 12) == [0]


def test_long_position_tables_never_take_from_the_pad_row(bert_folder, make_gelu_model):
    model = make_gelu_model(max_source_positions=1100, max_target_positions=600)
    starts.load_into(model, str(bert_folder))
    table = model.state_dict()["encoder.embed_positions.weight"]
    assert len(table) == 1101 and not table[0].any()
    assert table[1:].any(1).all() and torch.equal(table[512], table[1].roll(-1))


@pytest.mark.parametrize(
    "options,message",
    [
        ({"encoder_embed_dim": 64, "decoder_embed_dim": 64}, "needs --encoder-embed-dim 48 --decoder-embed-dim 48 (here 64, 64)"),
        ({"encoder_ffn_embed_dim": 64}, "needs --encoder-ffn-embed-dim 96 (here 64)"),
        ({"decoder_attention_heads": 2}, "needs --decoder-attention-heads 4 (here 2)"),
        ({"activation_fn": "relu"}, "needs --activation-fn gelu (here relu)"),
        ({"encoder_layers": 4}, "set --encoder-layers 3 or fewer"),
        ({"pretrained_encoder_layers": "0,1"}, "--pretrained-encoder-layers 0,1: name 3 layers"),
        ({"pretrained_encoder_layers": "0,1,3"}, "which has 0 to 2"),
        ({"pretrained_decoder_layers": "first"}, "--pretrained-decoder-layers first: give numbers"),
    ],
)
def test_sizes_that_do_not_match_name_the_option(options, message, bert_folder, make_gelu_model):
    with pytest.raises(ValueError) as error:
        starts.load_into(make_gelu_model(**options), str(bert_folder))
    assert message in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    "spoil,message",
    [
        (lambda f: edit_config(f, model_type="roberta"), "config.json says model_type roberta"),
        (lambda f: edit_config(f, position_embedding_type="relative_key"), "its positions are relative_key"),
        (lambda f: edit_config(f, hidden_act="mish"), "activation function mish"),
        (lambda f: (f / "config.json").write_text("{"), "config.json: not JSON"),
        (lambda f: (f / "config.json").write_text("[]"), "holds no settings"),
        (lambda f: (f / "config.json").unlink(), "no config.json in this folder"),
        (lambda f: (f / "model.safetensors").unlink(), "no model.safetensors or pytorch_model.bin in this folder"),
        (lambda f: os.truncate(f / "model.safetensors", 5000), "cannot be read; truncated"),
        (lambda f: (f / "model.safetensors").write_bytes(b""), "cannot be read; truncated"),
        (lambda f: edit_weights(f, drop="encoder.layer.1.output.dense.bias"), "lacks encoder.layer.1.output.dense.bias"),
        (lambda f: edit_weights(f, drop="embeddings.token_type_embeddings.weight"), "lacks embeddings.token_type"),
        (lambda f: edit_weights(f, **{"encoder.layer.0.crossattention.self.key.bias": torch.zeros(48)}),
         "unknown weight encoder.layer.0.crossattention"),
        (lambda f: save_file({"w": torch.zeros(2)}, f / "model.safetensors"), "neither a BANG"),
        (lambda f: edit_vocabulary(f, lambda lines: [b"<s>" if line == b"[CLS]" else line for line in lines]),
         "word piece 101 is '<s>' there"),
        (lambda f: edit_vocabulary(f, lambda lines: lines[:200]), "its vocabulary file has 200 word pieces, its table"),
        (lambda f: edit_vocabulary(f, lambda lines: [*lines, b"more"]), "word pieces, its table of embeddings"),
        (lambda f: edit_vocabulary(f, lambda lines: []), "has 0 word pieces"),
        (lambda f: edit_vocabulary(f, lambda lines: [*lines[:9], b"\xff", *lines[10:]]), "bert/vocab.txt, line 10: not UTF-8"),
        (lambda f: edit_config(f, hidden_act=[]), "activation function []"),
        (lambda f: edit_config(f, num_attention_heads="two"), "'two' attention heads"),
        (lambda f: edit_config(f, num_attention_heads=0), "0 attention heads"),
        (lambda f: edit_config(f, num_attention_heads=5),
         "5 attention heads, and a whole number is wanted that divides its width of 48"),
        *[
            (lambda f, name=name, shape=shape: edit_weights(f, **{name: torch.zeros(shape)}),
             f"bert: {name} is {shape} and has to be")
            for name, shape in (
                ("embeddings.word_embeddings.weight", (48,)),
                ("embeddings.word_embeddings.weight", ()),
                ("embeddings.token_type_embeddings.weight", (2, 32)),
                ("embeddings.token_type_embeddings.weight", (0, 48)),
                ("embeddings.position_embeddings.weight", (512,)),
                ("embeddings.position_embeddings.weight", (0, 48)),
                ("embeddings.position_embeddings.weight", (1, 48)),
                ("embeddings.LayerNorm.bias", (1,)),
                ("encoder.layer.0.attention.self.query.weight", (48,)),
                ("encoder.layer.0.attention.self.query.weight", (40, 48)),
                ("encoder.layer.0.attention.self.key.weight", (48, 40)),
                ("encoder.layer.1.attention.output.LayerNorm.weight", (48, 48)),
                ("encoder.layer.1.intermediate.dense.weight", (64, 48)),
                ("encoder.layer.2.output.dense.bias", ()),
            )
        ],
    ],
)  # fmt: skip
def test_what_is_no_start_is_refused_in_one_line(spoil, message, bert_folder, make_gelu_model):
    spoil(bert_folder)
    model = make_gelu_model()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(ValueError) as error:
        starts.load_into(model, str(bert_folder))
    assert message in str(error.value) and "\n" not in str(error.value)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_what_weights_alone_do_not_tell_is_said(bert_folder, make_gelu_model, tmp_path, caplog):
    starts.load_into(make_gelu_model(), str(bert_folder))
    assert not [record for record in caplog.records if record.levelname == "WARNING"]
    (bert_folder / "model.safetensors").rename(tmp_path / "alone.safetensors")
    starts.load_into(make_gelu_model(decoder_attention_heads=8, activation_fn="relu"), str(tmp_path / "alone.safetensors"))
    (warning,) = [record.message for record in caplog.records if record.levelname == "WARNING"]
    assert warning == (
        f"--load-from-pretrained-model {tmp_path / 'alone.safetensors'}: weights alone do not say --encoder-attention-heads, "
        "--decoder-attention-heads, --activation-fn; taken as 4, 8, relu; its config.json beside it settles them"
    )


def test_another_vocabulary_is_refused(bert, make_gelu_model, tmp_path):
    table = dict(bert.state_dict())
    table["embeddings.word_embeddings.weight"] = torch.zeros(1000, 48)
    save_file(table, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match="has 1000 word pieces, the encoder's dictionary .*--srcdict vocab.txt"):
        starts.load_into(make_gelu_model(), str(tmp_path / "model.safetensors"))


def test_a_smaller_vocabulary_takes_its_rows(bert_folder, pieces, make_gelu_model):
    """The start has the pieces in reverse and as many more: the model's rows are those of its pieces."""
    table = torch.randn(2 * len(pieces), 48, generator=torch.Generator().manual_seed(1))
    edit_weights(bert_folder, **{"embeddings.word_embeddings.weight": table})
    more = [name for piece in pieces[::-1] for name in (piece, f"more-{piece}") if piece != "[X_SEP]"]
    (bert_folder / "vocab.txt").write_text("\n".join(more + ["more-1", "more-2"]) + "\n", encoding="utf-8")
    model = make_gelu_model()
    starts.load_into(model, str(bert_folder))
    rows = torch.tensor([more.index(piece) if piece in more else pieces.index(piece) for piece in pieces])
    assert torch.equal(model.state_dict()["encoder.embed_tokens.weight"], table[rows])
    assert torch.equal(model.state_dict()["decoder.embed_tokens.weight"], table[rows])
    assert torch.equal(model.state_dict()["decoder.ngram_input_embed.weight"][0], table[more.index("[MASK]")])
    more[more.index("the")] = "more-3"
    (bert_folder / "vocab.txt").write_text("\n".join(more + ["more-1", "more-2"]) + "\n", encoding="utf-8")
    with pytest.raises(ValueError, match="lacks 1 word pieces of the encoder's dictionary, as 'the'; binarize"):
        starts.load_into(make_gelu_model(), str(bert_folder))


def test_a_dictionary_without_x_sep_takes_its_rows(bert_folder, pieces):
    """Of a smaller vocabulary, which need not have it."""
    start = starts.read(str(bert_folder))
    some = [piece for piece in pieces if piece != "[X_SEP]"][:900]
    cfg = Namespace(**start.sizes, encoder_layers=3, decoder_layers=3)
    own = {f"{side}.embed_positions.weight": torch.zeros(513, 48) for side in ("encoder", "decoder")}
    own["decoder.ngram_input_embed.weight"] = torch.zeros(1, 48)
    weights = starts.weights_for(start, cfg, own, {"encoder": some, "decoder": some})
    table = start.weights["encoder.embed_tokens.weight"]
    assert torch.equal(weights["encoder.embed_tokens.weight"], table[[pieces.index(piece) for piece in some]])


class Harm:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return exec, (f"open({str(self.path)!r}, 'w')",)


def test_a_pickle_with_code_is_refused_and_does_not_run(bert_folder, make_gelu_model, tmp_path):
    (bert_folder / "model.safetensors").unlink()
    torch.save({"embeddings.word_embeddings.weight": Harm(tmp_path / "ran")}, bert_folder / "pytorch_model.bin")
    with pytest.raises(ValueError, match="refused, it holds .*exec") as error:
        starts.load_into(make_gelu_model(), str(bert_folder))
    assert "\n" not in str(error.value) and not (tmp_path / "ran").exists()
