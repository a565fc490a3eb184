"""The losses against the reference's numbers; the mode of an update."""

import json
import math

import numpy as np
import pytest
import torch
from conftest import GOLDEN
from fairseq.logging import metrics
from torch.utils.flop_counter import FlopCounterMode

from bang import visibility
from bang.plugin import loss as loss_module
from bang.plugin.criterion import NgramLanguageLoss, NgramLanguageLossNarMixed, draw_mode
from bang.plugin.data import PairDataset, targets_from
from bang.plugin.loss import linear_nll


@pytest.fixture
def make_criterion(make_task):
    def make(label_smoothing=0.0, ngram=1, disable_ngram_loss=True, stream_decay=1.0, sentence_avg=False, seed=1, **mixed):
        common = (make_task(), label_smoothing, disable_ngram_loss, stream_decay, ngram, sentence_avg, seed)
        if not mixed:
            return NgramLanguageLoss(*common)
        settings = {"nar_ratio": 0.0, "semi_nar_ratio": 0.0, "block_size": 4, "random_block_offset": False}
        return NgramLanguageLossNarMixed(*common, **{**settings, "joint_modes": False, "own_texts": 0, **mixed})

    return make


def sample_of(arrays):
    return {
        "net_input": {key: arrays[key] for key in ("src_tokens", "src_lengths", "prev_output_tokens")},
        "target": arrays["target"],
        "ntokens": int(arrays["target"].ne(0).sum()),
        "targets_from": targets_from([np.arange(n) for n in arrays["target"].ne(0).sum(1).tolist()]),
    }


@pytest.mark.parametrize("epsilon", [0.0, 0.1])
@pytest.mark.parametrize("mode", ["ar", "nar"])
@pytest.mark.parametrize("name", ["mixed", "nar"])
def test_losses_and_gradients_are_the_reference(name, mode, epsilon, golden_model, forward_arrays, make_criterion):
    golden = json.loads((GOLDEN / name / "losses.json").read_text())
    expected = golden[f"{mode}_eps{epsilon}"]
    model = golden_model(name)
    criterion = make_criterion(epsilon, nar_ratio=float(mode == "nar"))
    loss, sample_size, log = criterion(model, sample_of(forward_arrays[name]))
    loss.backward()
    assert loss.item() == pytest.approx(expected["loss"], rel=1e-5)
    assert sample_size == expected["sample_size"] == golden["ntokens"]
    for key in ("ntokens", "nsentences", "sample_size"):
        assert log[key] == expected["logging"][key]
    assert float(log["loss"]) == pytest.approx(expected["logging"]["loss"], rel=1e-5)
    norms = {key: p.grad.norm().item() if p.grad is not None else 0.0 for key, p in model.named_parameters()}
    reference = {key: value for key, value in expected["grad_l2"].items() if key in norms}
    assert reference.keys() == norms.keys()
    for key, value in reference.items():
        assert norms[key] == pytest.approx(value or 0.0, rel=1e-3, abs=1e-5), key


@pytest.mark.parametrize("rows", [3, 100])
@pytest.mark.parametrize("epsilon", [0.0, 0.3])
def test_the_fused_loss_is_pytorchs(epsilon, rows, monkeypatch):
    """Losses and gradients of linear_nll, in pieces and in one, against F.linear and F.cross_entropy."""
    monkeypatch.setitem(loss_module.ROWS, "cpu", rows)
    torch.manual_seed(0)
    features, weight = torch.randn(10, 5, requires_grad=True), torch.randn(7, 5, requires_grad=True)
    target, row_weight = torch.randint(7, (10,)), torch.rand(10)
    logits = features @ weight.t()
    expected = torch.nn.functional.cross_entropy(logits, target, reduction="none", label_smoothing=epsilon)
    gradients = torch.autograd.grad(2 * (expected * row_weight).sum(), (features, weight))
    total, losses, nll = linear_nll(features, weight, target, row_weight, epsilon)
    torch.testing.assert_close(losses, expected)
    torch.testing.assert_close(nll, torch.nn.functional.cross_entropy(logits, target, reduction="none"))
    torch.testing.assert_close(total, (expected * row_weight).sum())
    torch.testing.assert_close(torch.autograd.grad(2 * total, (features, weight)), gradients)
    assert linear_nll(features.bfloat16(), weight.bfloat16(), target, row_weight, epsilon)[1].dtype == torch.float32


def test_the_fused_loss_under_autocast():
    torch.manual_seed(0)
    features, weight = torch.randn(10, 5, requires_grad=True), torch.randn(7, 5, requires_grad=True)
    target, ones = torch.randint(7, (10,)), torch.ones(10)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        total, losses, _ = linear_nll(features, weight, target, ones, 0.1)
        logits = features @ weight.t()
    assert logits.dtype == torch.bfloat16
    expected = torch.nn.functional.cross_entropy(logits.float(), target, reduction="none", label_smoothing=0.1)
    torch.testing.assert_close(losses, expected)
    total.backward()
    assert features.grad.dtype == weight.grad.dtype == torch.float32


@pytest.mark.parametrize("autocast", [True, False])
@pytest.mark.parametrize("dtype,rounding", [(torch.bfloat16, 2.0**-9), (torch.float16, 2.0**-12)])
def test_gradients_of_the_fused_loss_in_half_precision(dtype, rounding, autocast, monkeypatch):
    """Against float32, over eight blocks of rows, with pieces that are never likely and rows that hardly count."""
    monkeypatch.setitem(loss_module.ROWS, "cpu", 256)
    torch.manual_seed(0)
    features, weight = torch.randn(2048, 16) * 0.3 + 1, torch.randn(40, 16) * 0.3
    weight[30:] = weight[30:] * 0.1 - 0.8
    features, weight = features.to(dtype), weight.to(dtype)
    target, row_weight, scale = torch.randint(30, (2048,)), torch.rand(2048), 256.0
    row_weight[:64] = 1e-6
    logits = (features @ weight.t()).float().requires_grad_()  # rounded, as those of a layer in half precision
    losses = torch.nn.functional.cross_entropy(logits, target, reduction="none")
    (d_logits,) = torch.autograd.grad(scale * (losses * row_weight).sum(), logits)
    expected = d_logits @ weight.float(), d_logits.t() @ features.float()
    assert 0 < d_logits[:, 30:].median() / scale < 3e-8

    leaves = [(value.float() if autocast else value).requires_grad_() for value in (features, weight)]
    with torch.autocast("cpu", dtype=dtype, enabled=autocast):
        total, _, _ = linear_nll(*leaves, target, row_weight, 0.0)
    found = torch.autograd.grad(scale * total, leaves)
    assert [gradient.dtype for gradient in found] == [leaf.dtype for leaf in leaves]

    def error(found, expected):
        return (found.float() - expected).norm() / expected.norm()

    assert error(found[0], expected[0]) < 1.5 * rounding and error(found[0][:64], expected[0][:64]) < 0.01
    assert error(found[1], expected[1]) < (0.5 if autocast else 1.1) * rounding
    assert error(found[1][30:], expected[1][30:]) < 0.01


@pytest.mark.parametrize("ngram", [1, 3, 9])
def test_streams_count_their_targets(ngram, golden_model, forward_arrays, make_criterion):
    """Loss and sample size of n streams, by plain loops over streams and targets."""
    model, sample = golden_model("mixed"), sample_of(forward_arrays["mixed"])
    target = sample["target"]
    loss, sample_size, _ = make_criterion(ngram=ngram, disable_ngram_loss=False)(model, sample)
    layout = visibility.streams(target.size(1), ngram)
    with torch.no_grad():
        lprobs = model(**sample["net_input"], layout=layout)[0].log_softmax(2).unflatten(1, layout[:2])
    expected, count = 0.0, 0
    for row in range(len(target)):
        for t in range(target.size(1)):
            for stream in range(min(ngram, t + 1)):
                if target[row, t] != 0:
                    expected -= lprobs[row, t - stream, stream, target[row, t]].item()
                    count += 1
    assert sample_size == count
    assert loss.item() == pytest.approx(expected, rel=1e-5)


def test_streams_count_from_their_index_in_the_span(golden_model, forward_arrays, make_criterion):
    model, sample = golden_model("mixed"), sample_of(forward_arrays["mixed"])
    sample = {key: value[:1] if torch.is_tensor(value) else value for key, value in sample.items()}
    length = 6
    sample["net_input"] = {key: value[:1] for key, value in sample["net_input"].items()}
    sample["net_input"]["prev_output_tokens"] = sample["net_input"]["prev_output_tokens"][:, :length]
    sample["net_input"]["positions"] = torch.tensor([[3, 4, 5, 40, 41, 42]])
    sample["target"] = sample["target"][:, :length]
    sample["target_idx"] = torch.tensor([[0, 1, 2, 0, 1, 2]])
    sample["targets_from"] = targets_from([np.array([0, 1, 2, 0, 1, 2])])
    loss, sample_size, _ = make_criterion(ngram=3, disable_ngram_loss=False)(model, sample)
    assert sample_size == 2 * (1 + 2 + 3)
    layout = visibility.streams(length, 3)
    with torch.no_grad():
        lprobs = model(**sample["net_input"], layout=layout)[0].log_softmax(2).unflatten(1, layout[:2])
    expected = -sum(
        lprobs[0, t - stream, stream, sample["target"][0, t]].item()
        for t in range(length)
        for stream in range(int(sample["target_idx"][0, t]) + 1)
    )
    assert loss.item() == pytest.approx(expected, rel=1e-5)


def test_disable_ngram_loss_is_stream_zero(golden_model, forward_arrays, make_criterion, caplog):
    model, sample = golden_model("mixed"), sample_of(forward_arrays["mixed"])
    one = make_criterion()(model, sample)
    same = make_criterion(ngram=5, disable_ngram_loss=True)(model, sample)
    assert one[0].item() == same[0].item() and one[1] == same[1]
    assert "--ngram 5 has no effect" in caplog.text


def test_sentence_avg(golden_model, forward_arrays, make_criterion):
    model, sample = golden_model("mixed"), sample_of(forward_arrays["mixed"])
    assert make_criterion(sentence_avg=True, nar_ratio=1.0)(model, sample)[1] == 5
    assert make_criterion(sentence_avg=True, nar_ratio=0.0)(model, sample)[1] == 61
    per_token = log_of(make_criterion(nar_ratio=1.0), model, sample)
    values = log_of(make_criterion(sentence_avg=True, nar_ratio=1.0), model, sample)
    # as in fairseq's criterions: the loss per sentence, nll and perplexity per token
    assert values["loss"] == pytest.approx(per_token["loss"] * 61 / 5, abs=0.0005 * 61 / 5)  # logged to three places
    assert values["nll_loss"] == per_token["nll_loss"] and values["ppl"] == per_token["ppl"] < 1e6
    # several modes are brought to one scale, whatever each alone is divided by
    mixed = {key: make_criterion(nar_ratio=0.25, sentence_avg=key)(model, sample) for key in (False, True)}
    assert mixed[True][0].item() == mixed[False][0].item() and mixed[True][1] == 61


def log_of(criterion, model, sample):
    with metrics.aggregate(new_root=True) as aggregate:
        criterion.reduce_metrics([criterion(model, sample)[2]])
    return aggregate.get_smoothed_values()


def test_semi_nar_loss_by_hand(golden_model, forward_arrays, make_criterion):
    model, sample = golden_model("mixed"), sample_of(forward_arrays["mixed"])
    loss, sample_size, log = make_criterion(semi_nar_ratio=1.0, block_size=4)(model, sample)
    with torch.no_grad():
        logits = model(**sample["net_input"], layout=visibility.semi_autoregressive(19, 4))[0][:, :19]
    real = sample["target"].ne(0)
    expected = torch.nn.functional.cross_entropy(logits[real], sample["target"][real], reduction="sum")
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    assert sample_size == 61 and float(log["semi-nar_loss"]) == pytest.approx(loss.item())


def test_the_mode_follows_seed_and_update_number():
    shares = {"nar": 0.3, "semi-nar": 0.2, "ar": 0.5}
    modes = [draw_mode(shares, 5, update) for update in range(4000)]
    assert modes == [draw_mode(shares, 5, update) for update in range(4000)]
    assert modes != [draw_mode(shares, 6, update) for update in range(4000)]
    for mode, share in shares.items():  # within four standard errors
        assert modes.count(mode) / 4000 == pytest.approx(share, abs=4 * math.sqrt(share * (1 - share) / 4000))
    assert {draw_mode({"ar": 1.0}, 1, update) for update in range(50)} == {"ar"}
    follows = sum(a == b for a, b in zip(modes, modes[1:])) / 3999  # consecutive updates are independent
    assert follows == pytest.approx(0.3**2 + 0.2**2 + 0.5**2, abs=0.04)


def test_training_draws_and_validation_measures_all(golden_model, forward_arrays, make_criterion):
    model, sample = golden_model("mixed"), sample_of(forward_arrays["mixed"])
    mixed = make_criterion(nar_ratio=0.25, seed=3)
    by_mode = {mode: make_criterion(nar_ratio=float(mode == "nar"))(model, sample)[0].item() for mode in ("ar", "nar")}
    loss, sample_size, log = mixed(model, sample)
    assert loss.item() == pytest.approx(0.75 * by_mode["ar"] + 0.25 * by_mode["nar"], rel=1e-5)
    assert sample_size == 61
    assert float(log["ar_loss"]) == pytest.approx(by_mode["ar"], rel=1e-5)
    assert float(log["nar_loss"]) == pytest.approx(by_mode["nar"], rel=1e-5)
    model.train()  # the golden models have no dropout
    drawn = []
    for update in range(12):
        model.set_num_updates(update)
        loss, _, log = mixed(model, sample)
        mode = draw_mode(mixed.shares, 3, update)
        assert loss.item() == pytest.approx(by_mode[mode], rel=1e-5)
        assert (f"{mode}_loss" in log) and len([key for key in log if key.endswith("r_loss")]) == 1
        drawn.append(mode)
    assert set(drawn) == {"ar", "nar"}


def test_joint_modes_train_all_of_them_at_once(golden_model, forward_arrays, make_criterion):
    """Loss and gradients of an update are the weighted sums of the modes', per target."""
    model, sample = golden_model("mixed"), sample_of(forward_arrays["mixed"])
    model.train()  # the golden models have no dropout
    model.set_num_updates(3)
    shares = {"nar": 0.25, "semi-nar": 0.35, "ar": 0.4}
    options = dict(ngram=3, disable_ngram_loss=False, stream_decay=0.5, label_smoothing=0.1)
    joint = make_criterion(**options, nar_ratio=0.25, semi_nar_ratio=0.35, joint_modes=True)
    parameters = list(model.parameters())
    loss, sample_size, log = joint(model, sample)
    gradients = torch.autograd.grad(loss, parameters)
    total, sums = 0.0, [torch.zeros_like(p) for p in parameters]
    for mode, share in shares.items():
        alone = make_criterion(**options, nar_ratio=float(mode == "nar"), semi_nar_ratio=float(mode == "semi-nar"))
        of_mode, size, _ = alone(model, sample)
        assert float(log[f"{mode}_loss"]) == pytest.approx(of_mode.item(), rel=1e-5)
        assert log[f"{mode}_sample_size"] == pytest.approx(size)
        scaled = share * 61 / size * of_mode
        total += scaled.item()
        for so_far, gradient in zip(sums, torch.autograd.grad(scaled, parameters)):
            so_far += gradient
    assert sample_size == 61 and loss.item() == pytest.approx(total, rel=1e-5)
    for gradient, expected in zip(gradients, sums):
        torch.testing.assert_close(gradient, expected, rtol=1e-3, atol=1e-4)


def test_streams_weigh_less_the_further_they_look(golden_model, forward_arrays, make_criterion):
    model, sample = golden_model("mixed"), sample_of(forward_arrays["mixed"])
    sizes, losses = [], []
    for ngram in (1, 2, 3):
        loss, size, _ = make_criterion(ngram=ngram, disable_ngram_loss=False)(model, sample)
        losses.append(loss.item())
        sizes.append(size)
    streams = [losses[0], losses[1] - losses[0], losses[2] - losses[1]]
    numbers = [sizes[0], sizes[1] - sizes[0], sizes[2] - sizes[1]]
    loss, size, _ = make_criterion(ngram=3, disable_ngram_loss=False, stream_decay=0.5)(model, sample)
    assert loss.item() == pytest.approx(streams[0] + streams[1] / 2 + streams[2] / 4, rel=1e-4)
    assert size == pytest.approx(numbers[0] + numbers[1] / 2 + numbers[2] / 4)


def test_semi_nar_blocks_begin_anywhere(golden_model, forward_arrays, make_criterion):
    model, sample = golden_model("mixed"), sample_of(forward_arrays["mixed"])
    criterion = make_criterion(semi_nar_ratio=1.0, block_size=4, random_block_offset=True, seed=2)
    assert criterion(model, sample)[1] == 61  # validation begins at the first token
    model.train()
    seen = set()
    real = sample["target"].ne(0)
    for update in range(40):
        model.set_num_updates(update)
        start = criterion._block_offset(update)
        seen.add(start)
        loss, size, _ = criterion(model, sample)
        with torch.no_grad():
            layout = visibility.semi_autoregressive(19, 4, start)
            logits = model(**sample["net_input"], layout=layout)[0][:, : 19 - start]
        counted = real[:, start:]
        expected = torch.nn.functional.cross_entropy(logits[counted], sample["target"][:, start:][counted], reduction="sum")
        assert size == counted.sum() and loss.item() == pytest.approx(expected.item(), rel=1e-5)
    assert seen == {0, 1, 2, 3}


def test_metrics_are_in_base_2():
    logs = [
        {"loss": 8.0, "nll_loss": 4.0, "sample_size": 4, "nll_tokens": 4, "ar_loss": 8.0, "ar_sample_size": 4},
        {"loss": 2.0, "nll_loss": 2.0, "sample_size": 1, "nll_tokens": 1, "nar_loss": 2.0, "nar_sample_size": 1},
    ]
    with metrics.aggregate(new_root=True) as aggregate:
        NgramLanguageLossNarMixed.reduce_metrics(logs)
    values = aggregate.get_smoothed_values()
    assert values["loss"] == pytest.approx(10 / 5 / math.log(2), abs=1e-3)
    assert values["nll_loss"] == pytest.approx(6 / 5 / math.log(2), abs=1e-3)
    assert values["ppl"] == pytest.approx(math.exp(6 / 5), abs=0.01)
    assert values["ar_loss"] == pytest.approx(2 / math.log(2), abs=1e-3)
    assert values["nar_loss"] == pytest.approx(2 / math.log(2), abs=1e-3)
    assert "semi-nar_loss" not in values


@pytest.mark.parametrize(
    "options,message",
    [
        ({"nar_ratio": 1.5}, "--nar-ratio 1.5"),
        ({"semi_nar_ratio": -0.1}, "--semi-nar-ratio -0.1"),
        ({"nar_ratio": 0.7, "semi_nar_ratio": 0.6}, "add up to more than 1"),
        ({"block_size": 0, "nar_ratio": 0.1}, "--block-size 0"),
        ({"ngram": 0}, "--ngram 0"),
        ({"ngram": 33}, "--ngram 33"),
        ({"label_smoothing": 1.0}, "--label-smoothing 1.0"),
        ({"stream_decay": 0.0}, "--stream-decay 0.0"),
    ],
)
def test_impossible_options(make_criterion, options, message):
    with pytest.raises(ValueError, match=message):
        make_criterion(**options)


def test_options_without_effect_are_named(make_criterion, make_model, caplog):
    make_criterion(nar_ratio=1.0, ngram=5, disable_ngram_loss=False, block_size=7)
    make_model("bang_nar", ngram=3)
    # generators of tests before tell what they did when they are collected, which may be now
    idle = [message.split(" has no effect")[0] for message in caplog.messages if "has no effect" in message]
    assert idle == ["--ngram 5", "--block-size 7", "--ngram 3"]
    caplog.clear()
    make_criterion(nar_ratio=0.5, semi_nar_ratio=0.1, ngram=5, disable_ngram_loss=False, block_size=7)
    assert not [message for message in caplog.messages if "has no effect" in message]


def test_shares_that_fill_up_leave_no_third(make_criterion):
    assert make_criterion(nar_ratio=0.7, semi_nar_ratio=0.3).shares == {"nar": 0.7, "semi-nar": 0.3}


def test_every_weight_has_a_gradient_in_every_mode(make_criterion, make_model, forward_arrays):
    """pytorch's DDP waits for all of them."""
    for options in ({}, {"share_all_embeddings": False}):
        model = make_model(**options).train()
        for shares in ({"nar_ratio": 1.0}, {"semi_nar_ratio": 1.0}, {"nar_ratio": 0.0}):
            model.zero_grad()
            make_criterion(**shares)(model, sample_of(forward_arrays["mixed"]))[0].backward()
            assert [name for name, p in model.named_parameters() if p.grad is None] == []


def test_streams_beyond_the_span_are_refused(make_task):
    task = make_task(mask_length=9)
    with pytest.raises(ValueError, match="--ngram 10 is larger than the span of --mask-length 9"):
        NgramLanguageLoss(task, 0.0, False, 1.0, 10, False, 1)


def test_random_blocks_are_for_pairs(make_task):
    options = dict(nar_ratio=0.0, semi_nar_ratio=1.0, block_size=4, random_block_offset=True, joint_modes=False, own_texts=0)
    with pytest.raises(ValueError, match="--random-block-offset is for pairs"):
        NgramLanguageLossNarMixed(make_task(mask_length=9), 0.0, False, 1.0, 1, False, 1, **options)


@pytest.mark.parametrize("training", [True, False])
def test_validation_makes_no_gradients(training):
    """The logits alone, a third of the work: counted in multiplications."""
    features, target = torch.randn(300, 8), torch.randint(0, 50, (300,))
    weight = torch.randn(50, 8, requires_grad=True)
    with torch.set_grad_enabled(training), FlopCounterMode(display=False) as counter:
        total, *_ = linear_nll(features, weight, target, torch.ones(300), 0.1)
    assert total.requires_grad == training
    of_logits = 2 * 300 * 50 * 8
    assert counter.get_total_flops() > of_logits if training else counter.get_total_flops() == of_logits


@pytest.mark.parametrize(
    "mode", [{"nar_ratio": 1.0}, {"semi_nar_ratio": 1.0, "block_size": 3}, {}, {"ngram": 2, "disable_ngram_loss": False}], ids=str
)
def test_a_pad_that_a_target_spells_is_no_target(mode, golden_model, make_criterion, dictionary):
    """Its slot is left out of loss and sample size; the numbers of the others are those of all slots without it."""
    targets = [torch.tensor([200, 201, 0, 202, 102]), torch.tensor([300, 0, 102])]
    sources = [torch.tensor([210, 211, 102]), torch.tensor([212, 102])]
    pairs = PairDataset(sources, [3, 2], dictionary, targets, [5, 3], dictionary)
    batch = pairs.collater([pairs[0], pairs[1]])
    model, criterion = golden_model("mixed"), make_criterion(nar_ratio=mode.pop("nar_ratio", 0.0), **mode)
    assert batch["ntokens"] == 6 and batch["targets_from"][:2] == [6, 4]
    loss, sample_size, _ = criterion(model, batch)
    (name,) = criterion.shares
    slots = criterion.slots(name, batch, 0)
    assert (slots.target != 0).all() and sample_size == len(slots.where) == (6 + 4 if criterion.ngram == 2 else 6)
    with torch.no_grad():
        lprobs = model(**batch["net_input"], layout=slots.layout)[0].log_softmax(2).flatten(0, 1)
    assert loss.item() == pytest.approx(-float(lprobs[slots.where, slots.target].sum()), rel=1e-5)
