"""ProphetNet as a start: its AR logits are ours; what does not fit is refused."""

from argparse import Namespace

import pytest
import torch
from support.foreign_models import PAD, SEP, edit_config, edit_weights, source

from bang import starts

LAYER = "prophetnet.decoder.layers.1"


@torch.no_grad()
def prophetnet_steps(model, tokens, target):
    """ProphetNet's logits (B, T, V), one cached token a step: its full pass scrambles the relative terms."""
    encoded, past, logits = model.prophetnet.encoder(tokens, attention_mask=(tokens != PAD).long()), None, []
    for step in range(target.size(1)):
        out = model(
            attention_mask=(tokens != PAD).long(), encoder_outputs=encoded,
            decoder_input_ids=target[:, step : step + 1], past_key_values=past, use_cache=True,
        )  # fmt: skip
        past = out.past_key_values
        logits.append(out.logits)
    return torch.cat(logits, dim=1)


@pytest.mark.parametrize("form", ["folder", "bare model", "bin"])
def test_ar_is_prophetnet(form, prophetnet, prophetnet_folder, make_model):
    if form == "bare model":
        prophetnet.prophetnet.save_pretrained(prophetnet_folder)
    elif form == "bin":
        (prophetnet_folder / "model.safetensors").unlink()
        torch.save(prophetnet.state_dict(), prophetnet_folder / "pytorch_model.bin")
    model = make_model(activation_fn="gelu")
    starts.load_into(model, str(prophetnet_folder))
    tokens = source()
    target = torch.cat([torch.full((2, 1), SEP), torch.randint(200, 1000, (2, 39))], dim=1)
    with torch.no_grad():
        ours = model(tokens, (tokens != PAD).sum(1), target)[0]
    theirs = prophetnet_steps(prophetnet, tokens, target)
    assert (ours - theirs).abs().max() < 2e-5
    assert theirs.std() > 0.5


def test_a_prophetnet_start_at_full_length(prophetnet, prophetnet_folder, make_model):
    """Rows 511 and 510 are the last that both sides have; ours beyond them do not come from the pad row."""
    model = make_model(activation_fn="gelu", max_source_positions=512)
    starts.load_into(model, str(prophetnet_folder))
    theirs = prophetnet.prophetnet.encoder.position_embeddings.weight
    ours = model.state_dict()["encoder.embed_positions.weight"]
    assert torch.equal(ours[:512], theirs) and torch.equal(ours[512], theirs[1].roll(-1))


@pytest.mark.parametrize(
    "spoil,options,message",
    [
        (lambda f: None, {"num_buckets": 16}, "needs --num-buckets 32 (here 16)"),
        (lambda f: None, {"relative_max_distance": 64}, "needs --relative-max-distance 128 (here 64)"),
        (lambda f: None, {"decoder_layers": 3}, "set --decoder-layers 2 or fewer"),
        (lambda f: edit_config(f, model_type="xlm-prophetnet"), {}, "config.json says model_type xlm-prophetnet"),
        (lambda f: edit_weights(f, **{"prophetnet.encoder.layers.0.adapter.weight": torch.zeros(2)}), {}, "no plain ProphetNet"),
        (lambda f: edit_config(f, num_decoder_attention_heads="two"), {}, "give the decoder 'two' attention heads"),
        (lambda f: edit_weights(f, **{"prophetnet.encoder.position_embeddings.weight": torch.zeros(512)}), {},
         "encoder.embed_positions.weight is (512,) and has to be a table"),
        (lambda f: edit_weights(f, **{"prophetnet.decoder.position_embeddings.weight": torch.zeros(1, 48)}), {},
         "decoder.embed_positions.weight is (1, 48) and has to be a table of 2"),
        (lambda f: edit_weights(f, **{"prophetnet.decoder.ngram_embeddings.weight": torch.zeros(())}), {},
         "decoder.ngram_input_embed.weight is () and has to be a table"),
        *[
            (lambda f, shape=shape: edit_weights(f, **{f"{LAYER}.self_attn.query_proj.weight": torch.zeros(shape)}), {},
             f"query, key and value weight of a self-attention are {shape}, (48, 48), (48, 48)")
            for shape in ((48,), (40, 48), (48, 40))
        ],
        (lambda f: edit_weights(f, drop=f"{LAYER}.self_attn.key_proj.bias"), {},
         "lacks decoder.layers.1.ngram_self_attn.in_proj_bias"),
    ],
)  # fmt: skip
def test_what_is_no_prophetnet_start_is_refused(spoil, options, message, prophetnet_folder, make_model):
    spoil(prophetnet_folder)
    with pytest.raises(ValueError) as error:
        starts.load_into(make_model(**{"activation_fn": "gelu", **options}), str(prophetnet_folder))
    assert message in str(error.value) and "\n" not in str(error.value)


def test_a_prophetnet_of_fairseq_is_a_start(make_model, golden_states, tmp_path):
    """The same names; two slot vectors, of which stream 0's is the last; heads and activation checked by its options."""
    state = golden_states["mixed"]
    slots = torch.stack([torch.zeros(48), torch.ones(48)])
    weights = {**state["model"], "decoder.ngram_input_embed.weight": slots}
    options = Namespace(encoder_attention_heads=4, decoder_attention_heads=4, activation_fn="gelu")
    torch.save({"model": weights, "args": options}, tmp_path / "prophetnet.pt")
    model = make_model(activation_fn="gelu", encoder_layers=1)
    starts.load_into(model, str(tmp_path / "prophetnet.pt"))
    own = model.state_dict()
    assert torch.equal(own["decoder.ngram_input_embed.weight"], slots[1:])
    assert torch.equal(own["decoder.layers.1.fc1.weight"], weights["decoder.layers.1.fc1.weight"])
    for wrong, message in (
        ({"activation_fn": "relu"}, "--activation-fn gelu"),
        ({"encoder_attention_heads": 2}, "--encoder-attention-heads 4"),
    ):
        with pytest.raises(ValueError, match=message):
            starts.load_into(make_model(**{"activation_fn": "gelu", **wrong}), str(tmp_path / "prophetnet.pt"))
