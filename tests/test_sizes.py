"""Encoder and decoder of different sizes: each side counts with its own, from training to an export."""

import numpy as np
import pytest
import torch
from conftest import TEXTS
from omegaconf import OmegaConf

from bang import visibility
from bang.deploy import export, pack
from bang.deploy.graph import DecoderGraph, EncoderGraph
from bang.inference.api import Bang
from bang.inference.torch_engine import TorchEngine
from bang.inference.trained_model import TrainedModel, read_folder, size_options
from bang.options import Options
from bang.plugin.criterion import NgramLanguageLossNarMixed

OWN_TABLES = dict(share_all_embeddings=False)
UNEQUAL = {
    "a wider encoder": dict(encoder_embed_dim=64, **OWN_TABLES),
    "a narrower encoder, tied output": dict(encoder_embed_dim=24, share_decoder_input_output_embed=True, **OWN_TABLES),
    "more of the encoder": dict(encoder_attention_heads=8, encoder_ffn_embed_dim=120, encoder_layers=3, decoder_layers=1),
    "less of the encoder": dict(encoder_attention_heads=2, encoder_ffn_embed_dim=40, encoder_layers=1),
    "all": dict(
        encoder_embed_dim=36, encoder_attention_heads=6, encoder_ffn_embed_dim=40, encoder_layers=1, decoder_embed_dim=40,
        decoder_attention_heads=5, decoder_ffn_embed_dim=72, decoder_layers=2, **OWN_TABLES,
    ),
}  # fmt: skip
DECODINGS = {
    "beam": dict(mode="ar", beam=3), "semi-nar": dict(mode="semi-nar", block_size=3), "nar": dict(mode="nar"),
    "the dial": dict(mode="semi-nar", commit_threshold=0.5), "speculative": dict(mode="speculative"),
}  # fmt: skip


@pytest.fixture(params=UNEQUAL.values(), ids=UNEQUAL)
def unequal(request, make_model):
    """A new network of unequal sizes; weights larger than at the start of a training, so that its texts differ."""
    network = make_model(**request.param)
    with torch.no_grad():
        for name, value in network.named_parameters():
            if value.dim() == 2 and "version" not in name:
                value.mul_(4)
    return network


@pytest.fixture
def model(unequal, dictionary):
    sizes = OmegaConf.to_container(unequal.cfg, enum_to_str=True)
    return TrainedModel(
        architecture="bang_ar_nar_mixed", sizes={name: sizes[name] for name in size_options("bang_ar_nar_mixed")},
        weights=unequal.state_dict(), dictionary=dictionary, criterion={}, updates=0,
    )  # fmt: skip


def test_an_update_trains_every_weight(unequal, make_task, pairs):
    """All modes at once; nothing of either side is left out."""
    criterion = NgramLanguageLossNarMixed(make_task(), 0.1, False, 1.0, 2, False, 1, 0.3, 0.3, 4, False, True, 0)
    loss, _, _ = criterion(unequal.train(), pairs(batch_size=6)[0])
    loss.backward()
    assert loss.isfinite() and all(value.grad.isfinite().all() and value.grad.any() for value in unequal.parameters())


def test_every_decoding_follows_the_full_pass(model, sources):
    """Greedy AR and NAR have the scores of the pass that training runs; blocks of one and drafts give greedy's tokens."""
    engine, network = TorchEngine(model, device="cpu"), model.build()
    batch = sources[:6]
    found = {name: engine.generate(batch, Options(max_len=9, min_len=9, **options)) for name, options in DECODINGS.items()}
    greedy = engine.generate(batch, Options(mode="ar", beam=1, max_len=9, min_len=9))
    assert [text.tokens for text in found["speculative"]] == [text.tokens for text in greedy]
    ones = engine.generate(batch, Options(mode="semi-nar", block_size=1, max_len=9, min_len=9))
    assert [text.tokens for text in ones] == [text.tokens for text in greedy]
    assert len({tuple(text.tokens) for text in greedy}) > 1 and all(len(text.tokens) == 9 for text in greedy)
    assert all(len(text.tokens) == 9 and np.isfinite(text.positional_scores).all() for texts in found.values() for text in texts)
    eos = model.dictionary.eos()
    layouts = {"ar": (greedy, visibility.autoregressive), "nar": (found["nar"], visibility.non_autoregressive)}
    for source, index in zip(batch, range(len(batch))):
        for texts, layout in layouts.values():
            tokens = torch.tensor(texts[index].tokens)
            previous = torch.cat([torch.tensor([eos]), tokens[:-1]])[None]
            with torch.no_grad():
                logits, _ = network(torch.from_numpy(source)[None], torch.tensor([len(source)]), previous, layout=layout(9))
            scores = logits[0].log_softmax(-1).gather(1, tokens[:, None])[:, 0]
            np.testing.assert_allclose(scores, texts[index].positional_scores[:9], atol=1e-4)


def test_a_packed_folder_writes_the_same_texts(model, tmp_path):
    pack.write_folder(model, tmp_path / "folder")
    original = Bang(TorchEngine(model, device="cpu"), model.dictionary.symbols)
    packed = Bang.load(tmp_path / "folder")
    for options in DECODINGS.values():
        assert packed.generate(TEXTS[:4], max_len=8, **options) == original.generate(TEXTS[:4], max_len=8, **options)
    widths = model.sizes["encoder_embed_dim"], model.sizes["decoder_embed_dim"]
    width = f"width {widths[0]}" if widths[0] == widths[1] else f"width {widths[0]} + {widths[1]}"
    layers = f"{model.sizes['encoder_layers']} + {model.sizes['decoder_layers']} layers"
    assert f"{layers}, {width} |" in (tmp_path / "folder" / "README.md").read_text()
    assert read_folder(tmp_path / "folder").sizes == model.sizes


def test_the_graphs_of_an_export(model, sources):
    """What is exported, run by torch: NAR's slots on the encoder's keys and values, against the network."""
    network, source, slots = model.build(), torch.from_numpy(sources[0])[None], 5
    layout = visibility.non_autoregressive(slots)
    number = np.arange(slots)
    position = visibility.slot_position(number)
    sees, bucket = visibility.pass_visibility(
        np, visibility.bucket_table(), slots, position[None], number[None], position, number,
        np.full(slots, -1), np.full(slots, -1),
    )  # fmt: skip
    with torch.no_grad():
        expected = network(source, torch.tensor([source.size(1)]), torch.zeros(1, slots, dtype=torch.long), layout=layout)[0]
        keys_values = EncoderGraph(network)(source)
        sees, bucket = torch.from_numpy(sees), torch.from_numpy(bucket)
        found, *_ = DecoderGraph(network, [0, 1, 2])(
            torch.zeros(1, 0, dtype=torch.long), torch.zeros(1, 0, dtype=torch.long), torch.from_numpy(position)[None],
            sees, bucket, source != 0, [x[:, :, :0] for x in keys_values], keys_values,
        )  # fmt: skip
    torch.testing.assert_close(found, expected.log_softmax(2), atol=2e-4, rtol=0)


@pytest.mark.slow
@pytest.mark.parametrize("unequal", [UNEQUAL["all"]], ids=["all"], indirect=True)
def test_an_export(model, tmp_path):
    export.export(model, tmp_path / "export")
    agreeing = export.compare(model, tmp_path / "export", TEXTS[:6])
    assert agreeing == dict.fromkeys(model.build().decodes, 6)


@pytest.mark.parametrize("sizes", [dict(encoder_embed_dim=64), dict(decoder_embed_dim=64)], ids=["encoder", "decoder"])
def test_shared_embeddings_have_one_width(sizes, make_model):
    with pytest.raises(ValueError, match="^--share-all-embeddings needs one width: --encoder-embed-dim [0-9]+, ") as refusal:
        make_model(**sizes)
    assert "give both the same, or use --arch bang_ar_nar_mixed" in str(refusal.value) and "\n" not in str(refusal.value)
