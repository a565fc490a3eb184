"""Checkpoints: old ones load, pretrained starts are adapted, bad ones are refused in one line."""

import numpy as np
import pytest
import torch
from conftest import GOLDEN

from bang import starts
from bang.safety import checkpoints

ADAPT = GOLDEN / "adapt" / "short_positions_pretrained.pt"


@pytest.fixture
def adapted(make_model):
    model = make_model()
    starts.load_into(model, str(ADAPT), load_sep=True)
    return model.state_dict()


def test_pretrained_start_is_the_reference(adapted):
    expected = np.load(GOLDEN / "adapt" / "short_positions_expected.npz")
    for name in ("encoder.embed_positions.weight", "decoder.embed_positions.weight", "decoder.ngram_input_embed.weight"):
        assert np.array_equal(adapted[name].numpy(), expected[name]), name
    for side in ("encoder", "decoder"):
        table = adapted[f"{side}.embed_tokens.weight"].numpy()
        assert np.array_equal(table[2], expected["x_sep_row"]) and np.array_equal(table[102], expected["sep_row"])


def test_without_load_sep_the_row_stays(make_model):
    model = make_model()
    starts.load_into(model, str(ADAPT))
    table = model.state_dict()["encoder.embed_tokens.weight"]
    assert not torch.equal(table[2], table[102])
    assert torch.equal(table, starts.read(str(ADAPT)).weights["encoder.embed_tokens.weight"])


def test_load_sep_goes_by_the_pieces_of_the_dictionary(make_model):
    model, start = make_model(), starts.read(str(ADAPT))
    moved = model.encoder.dictionary.symbols[::-1]
    weights = starts.weights_for(start, model.cfg, model.state_dict(), dict(encoder=moved, decoder=moved), load_sep=True)
    expected = start.weights["encoder.embed_tokens.weight"].clone()
    expected[moved.index("[X_SEP]")] = expected[moved.index("[SEP]")]
    assert torch.equal(weights["encoder.embed_tokens.weight"], expected)
    without = ["[unused1]" if piece == "[X_SEP]" else piece for piece in moved]
    with pytest.raises(ValueError, match=r"--load-sep: the dictionary has no \[X_SEP\]"):
        starts.weights_for(start, model.cfg, model.state_dict(), dict(encoder=without, decoder=without), load_sep=True)


def test_long_position_tables_are_cut(make_model):
    model = make_model(max_source_positions=64, max_target_positions=32)
    starts.load_into(model, str(ADAPT))
    pretrained = starts.read(str(ADAPT)).weights
    for side, rows in (("encoder", 65), ("decoder", 34)):
        name = f"{side}.embed_positions.weight"
        assert torch.equal(model.state_dict()[name], pretrained[name][:rows])


def test_a_fairseq_checkpoint_is_a_pretrained_start_too(make_model, golden_states):
    model = make_model(activation_fn="gelu")
    starts.load_into(model, str(GOLDEN / "mixed" / "checkpoint.pt"))
    for name, value in golden_states["mixed"]["model"].items():
        assert torch.equal(model.state_dict()[name], value)


def test_old_stacked_projections_are_accepted(make_model, golden_states):
    new = golden_states["mixed"]["model"]
    old = {}
    for name, value in new.items():
        for attention in ("self_attn.", "encoder_attn."):
            head, found, tail = name.partition("." + attention)
            if found and "ngram" not in name and tail.startswith("q_proj"):
                kind = tail.removeprefix("q_proj.")
                parts = [new[f"{head}.{attention}{part}_proj.{kind}"] for part in "qkv"]
                old[f"{head}.{attention}in_proj_{kind}"] = torch.cat(parts)
            if found and "ngram" not in name and not tail.startswith("out_proj"):
                break
        else:
            old[name] = value
    assert "encoder.layers.0.self_attn.in_proj_weight" in old and "decoder.layers.1.encoder_attn.in_proj_bias" in old
    assert "encoder.layers.0.self_attn.k_proj.weight" not in old
    model = make_model()
    model.load_state_dict(old)
    assert all(torch.equal(model.state_dict()[name], value) for name, value in new.items())


@pytest.mark.parametrize(
    "options,message",
    [
        ({"max_source_positions": 100}, "--max-source-positions"),
        ({"max_target_positions": 100}, "--max-target-positions"),
        ({"encoder_ffn_embed_dim": 64}, "--encoder-ffn-embed-dim"),
        ({"decoder_ffn_embed_dim": 64}, "--decoder-ffn-embed-dim"),
        ({"num_buckets": 16}, "--num-buckets"),
        ({"encoder_layers": 3}, "--encoder-layers"),
        ({"decoder_layers": 1}, "--decoder-layers"),
        ({"encoder_embed_dim": 64, "decoder_embed_dim": 64}, "--encoder-embed-dim"),
        ({"share_all_embeddings": False}, "--share"),
    ],
)
def test_sizes_that_do_not_match_name_the_option(options, message, make_model, golden_states):
    with pytest.raises(ValueError, match=message) as error:
        make_model(**options).load_state_dict(dict(golden_states["mixed"]["model"]))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("size", [0, 10, 5000, 900000])
def test_truncated_files(size, tmp_path):
    for legacy in (True, False):
        whole = tmp_path / "whole.pt"
        torch.save(checkpoints.read(str(GOLDEN / "mixed" / "checkpoint.pt")), whole, _use_new_zipfile_serialization=not legacy)
        path = tmp_path / "cut.pt"
        path.write_bytes(whole.read_bytes()[:size])
        with pytest.raises(ValueError, match="cut.pt: cannot be read; truncated") as error:
            checkpoints.check(str(path))
        assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "content,message",
    [({"weights": 1}, "lacks 'model'"), ([1, 2], "holds a list"), ({"model": {}}, "the training options")],
)
def test_foreign_files(content, message, tmp_path):
    path = tmp_path / "foreign.pt"
    torch.save(content, path)
    with pytest.raises(ValueError, match=message):
        checkpoints.check(str(path))
    with pytest.raises(ValueError, match="--load-from-pretrained-model|holds a list"):
        starts.read(str(path))


def test_missing_files(tmp_path):
    with pytest.raises(ValueError, match="none.pt: no such file"):
        checkpoints.check(str(tmp_path / "none.pt"))


def test_the_dictionary_is_remembered(make_task, dictionary):
    state = make_task().state_dict()
    make_task().load_state_dict(dict(state))
    make_task().load_state_dict({})  # of fairseq 0.9, which remembers none
    other = make_task()
    other.src_dict = type(dictionary)()
    other.src_dict.symbols = dictionary.symbols[::-1]
    with pytest.raises(ValueError, match="binarized with another dictionary"):
        other.load_state_dict(dict(state))
