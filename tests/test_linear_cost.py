"""What n-stream attention costs grows with the number of streams, not with its square."""

import pytest
import torch

from bang import visibility
from bang.network.attention import NgramSelfAttention

BATCH, HEADS, LENGTH = 2, 4, 72  # the targets of a full block


@pytest.fixture
def update(make_model):
    """Runs the decoder of a forward and backward pass in N streams."""
    model = make_model().train()
    tokens = torch.randint(110, 1000, (BATCH, LENGTH))
    encoder_out = model.encoder(tokens, src_lengths=torch.full((BATCH,), LENGTH))
    encoder_out["encoder_out"] = [encoder_out["encoder_out"][0].detach()]

    def run(ngram):
        layout = visibility.streams(LENGTH, ngram)
        model.decoder.extract_features(tokens, encoder_out, None, layout)[0].sum().backward()

    return run


def test_attention_scores_are_those_that_the_rule_names(update, monkeypatch):
    counts = []
    weights = NgramSelfAttention._weights
    monkeypatch.setattr(
        NgramSelfAttention, "_weights", lambda self, logits: counts.append(logits.numel()) or weights(self, logits)
    )
    for ngram in (1, 3, 9):
        counts.clear()
        update(ngram)
        slots = BATCH * HEADS * (ngram * LENGTH * LENGTH + ngram**2 * LENGTH)
        main = BATCH * HEADS * LENGTH * LENGTH
        assert sorted(counts) == sorted([main, slots, slots])  # the last layer's main tokens have no output


def test_memory_of_an_update_is_linear(update):
    """Bytes kept for the backward pass: 9 streams on the line through 1 and 3."""
    kept = {}
    for ngram in (1, 3, 9):
        storages = {}

        def pack(tensor, storages=storages):
            storages[tensor.untyped_storage().data_ptr()] = tensor  # held: no address comes twice
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            update(ngram)
        kept[ngram] = sum(tensor.untyped_storage().nbytes() for tensor in storages.values())
    line = kept[3] + 3 * (kept[3] - kept[1])
    assert kept[9] == pytest.approx(line, rel=0.05)
