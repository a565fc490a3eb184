"""Targets that the model writes itself: which, and what the loss makes of them."""

from dataclasses import fields

import numpy as np
import pytest
import torch
from conftest import train_log

from bang import modes
from bang.decoding import loop
from bang.decoding.choice import Bounds, Chooser
from bang.generation.session import TorchSession
from bang.plugin import self_distillation
from bang.plugin.criterion import MixedLossConfig, NgramLanguageLossNarMixed
from bang.text.collect import make_closest


@pytest.fixture
def make_criterion(make_task):
    def make(span=None, **options):
        given = {f.name: f.default for f in fields(MixedLossConfig) if f.name != "_name"}
        given |= {"ngram": 1, "sentence_avg": False, "seed": 1, **options}
        return NgramLanguageLossNarMixed(make_task(**({"mask_length": span} if span else {})), **given)

    return make


@pytest.fixture
def write(golden_model, dictionary):
    model = golden_model("mixed")

    def call(sample, number=4, seed=5):
        return self_distillation.write(model, sample, number, seed, dictionary)

    return call


def texts_of(batch, own):
    return dict(zip(batch["id"].tolist(), [[token for token in row if token] for row in own["target"].tolist()]))


def draw_alone(model, batch, row, number, seed, dictionary):
    """What a model writes for one sentence, each text by a session of its own."""
    pad, eos = dictionary.pad(), dictionary.eos()
    limit, texts = np.array([int(batch["target"][row].ne(pad).sum()) - 1 + 6]), []
    chooser = Chooser(pad, dictionary.unk(), eos, temperature=0.5 if number > 1 else 1.0, sampling=number > 1, topk=20, seed=seed)
    tokens, lengths = (batch["net_input"][key][row : row + 1] for key in ("src_tokens", "src_lengths"))
    for index in range(number):
        bounds = Bounds(np.ones_like(limit), limit, batch["id"][row : row + 1].numpy() * number + index)
        with torch.no_grad():
            session = TorchSession([model], tokens, lengths, chooser, bounds)
            (text,) = loop.Decoding(session, modes.strategy("ar"), np.ones_like(limit), limit, pad, eos).run()
        texts.append(text.tokens.tolist())
    return texts


@pytest.mark.parametrize("number", [1, 4])
def test_of_the_draws_the_nearest_to_the_reference_is_taken(number, write, golden_model, pairs, dictionary):
    (batch,) = pairs("test", 12)[:1]
    own, closest, several = write(batch, number), make_closest(), 0
    as_text = lambda tokens: " ".join(map(str, (token for token in tokens if token not in (0, dictionary.eos()))))  # noqa: E731
    for row, reference in enumerate(batch["target"].tolist()):
        drawn = draw_alone(golden_model("mixed"), batch, row, number, 5, dictionary)
        best = closest([as_text(text) for text in drawn], as_text(reference))
        assert as_text(own["target"][row].tolist()) == best
        several += len(set(map(tuple, drawn))) > 1
    assert several == 0 if number == 1 else several > 6
    real = own["target"].ne(0)
    assert own["ntokens"] == real.sum() and own["targets_from"] == [int(real[:, first:].sum()) for first in range(real.size(1))]
    assert own["net_input"]["prev_output_tokens"][:, 1:][real[:, 1:]].tolist() == own["target"][:, :-1][real[:, 1:]].tolist()
    assert own["net_input"]["prev_output_tokens"][:, 0].eq(dictionary.eos()).all()


def test_texts_follow_from_the_seed_and_the_sentence(write, pairs):
    (whole,) = pairs("test", 36)
    expected, found = texts_of(whole, write(whole)), {}
    for batch in pairs("test", 5, permute=3):
        found |= texts_of(batch, write(batch))
    assert found == expected and len(expected) == 24
    assert texts_of(whole, write(whole, seed=6)) != expected


@pytest.mark.parametrize("shares", [(0, 0), (0.3, 0.3)], ids=["ar", "all modes"])
def test_half_of_the_loss_is_of_the_models_own_texts(shares, make_criterion, golden_model, pairs, dictionary):
    """Loss and gradients of an update, against updates on the references and on these texts as references."""
    (batch,) = pairs("test", 8)[:1]
    model = golden_model("mixed").train()  # the golden models have no dropout
    model.set_num_updates(3)
    options = dict(nar_ratio=shares[0], semi_nar_ratio=shares[1], joint_modes=True, label_smoothing=0.1)
    seed = int(np.random.default_rng([1, 3, 2]).integers(1 << 31))
    own = self_distillation.write(model, batch, 2, seed, dictionary)
    assert model.training
    parameters, expected, sums = list(model.parameters()), 0, [torch.zeros_like(p) for p in model.parameters()]
    for sample in (batch, {**batch, **own}):
        loss, size, _ = make_criterion(**options)(model, sample)
        scaled = loss / size * batch["ntokens"] / 2
        expected += scaled.item()
        for so_far, gradient in zip(sums, torch.autograd.grad(scaled, parameters)):
            so_far += gradient
    loss, size, log = make_criterion(own_texts=2, **options)(model, batch)
    assert size == batch["ntokens"] and loss.item() == pytest.approx(expected, rel=1e-5)
    assert {key for key in log if key.endswith("_own_loss")} == {"ar_own_loss"} | (
        {"nar_own_loss", "semi-nar_own_loss"} if any(shares) else set()
    )
    for gradient, wanted in zip(torch.autograd.grad(loss, parameters), sums):
        torch.testing.assert_close(gradient, wanted, rtol=1e-3, atol=1e-4)


def test_validation_knows_the_references_alone(make_criterion, golden_model, pairs):
    (batch,) = pairs("test", 8)[:1]
    model = golden_model("mixed")
    assert make_criterion(own_texts=2)(model, batch)[2].keys() == make_criterion()(model, batch)[2].keys()


def test_training_logs_both_losses(train_here, caplog):
    options = "--nar-ratio 0.3 --semi-nar-ratio 0.3 --joint-modes --own-texts 2 --max-update 2 --log-format json --log-interval 1"
    with caplog.at_level("INFO"):
        train_here(*options.split(), validate=True)
    log = "\n".join(f"| {record.name} | {record.getMessage()}" for record in caplog.records)
    updates, (valid,) = train_log(log), train_log(log, "valid")
    assert len(updates) == 2
    for mode in ("ar", "semi-nar", "nar"):
        assert all(float(update[f"{mode}_own_loss"]) > 0 and float(update[f"{mode}_loss"]) > 0 for update in updates)
        assert f"valid_{mode}_loss" in valid and f"valid_{mode}_own_loss" not in valid


@pytest.mark.parametrize(
    "options, told",
    [
        (dict(own_texts=-1), "--own-texts -1"),
        (dict(own_texts=2, nar_ratio=1.0), "--own-texts: the model writes in AR, so train AR too"),
        (dict(own_texts=2, nar_ratio=0.5, semi_nar_ratio=0.5), "--own-texts: the model writes in AR"),
        (dict(own_texts=2, span=9), "--own-texts is for pairs"),
    ],
)
def test_bad_options_are_refused(options, told, make_criterion):
    with pytest.raises(ValueError, match=told):
        make_criterion(**options)
