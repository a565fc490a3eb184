"""--rescore: candidates of several lengths, and the AR stream's choice."""

import logging

import pytest
import torch
from support.generation import options

from bang import visibility


def best(generator, batches):
    """{sentence: its hypothesis}"""
    found = {}
    for batch in batches:
        hypotheses = generator.generate(models(generator), batch)
        found |= {sentence: texts[0] for sentence, texts in zip(batch["id"].tolist(), hypotheses)}
    return found


def models(generator):
    return getattr(generator, "generator", generator).models


def ar_score(model, batch, row, tokens, lenpen):
    """AR's log-probability of a text, teacher-forced, over length ** lenpen: straight from the model."""
    previous = torch.cat([tokens[-1:], tokens[:-1]])[None]
    source = batch["net_input"]["src_tokens"][row]
    source = source[source != model.decoder.padding_idx][None]
    with torch.no_grad():
        logits = model(source, torch.tensor([source.size(1)]), previous, layout=visibility.autoregressive(len(tokens)))[0]
    chosen = torch.log_softmax(logits.float().view(len(tokens), -1), -1).gather(1, tokens[:, None])
    return float(chosen.sum() / len(tokens) ** lenpen)


@pytest.mark.parametrize("mode", [{"decoding": "nar"}, {"decoding": "semi-nar", "block_size": 3}])
def test_the_choice_is_the_best_for_ar(mode, golden_model, make_task, pairs):
    model = golden_model("mixed")
    batches = pairs("test")
    cfg = options(lenpen=0.8)
    own = best(make_task(**mode).build_generator([model], cfg), batches)
    chosen = best(make_task(**mode, rescore=4).build_generator([model], cfg), batches)
    assert chosen.keys() == own.keys()
    changed = 0
    for batch in batches:
        for row, sentence in enumerate(batch["id"].tolist()):
            text, first = chosen[sentence]["tokens"], own[sentence]["tokens"]
            score = ar_score(model, batch, row, text, 0.8)
            assert float(chosen[sentence]["score"]) == pytest.approx(score, abs=2e-5)
            assert chosen[sentence]["positional_scores"].shape == chosen[sentence]["passes"].shape == text.shape
            assert len(first) - 1 <= len(text) <= len(first) + 2  # lengths L, L + 1, L - 1, L + 2
            if not torch.equal(text, first):
                changed += 1
                assert score > ar_score(model, batch, row, first, 0.8)
    assert changed >= 3  # on sentences that the model has not seen the choice matters


def test_a_choice_does_not_depend_on_the_batch(golden_model, make_task, pairs):
    generator = make_task(decoding="nar", rescore=3).build_generator([golden_model("mixed")], options())
    together, alone = best(generator, pairs("test")), best(generator, pairs("test", batch_size=1))
    for sentence, text in together.items():
        assert torch.equal(text["tokens"], alone[sentence]["tokens"])
        assert float(text["score"]) == pytest.approx(float(alone[sentence]["score"]), abs=2e-5)


def test_limits_hold(golden_model, make_task, pairs):
    cfg = options(max_len_b=4, min_len=3)
    generator = make_task(decoding="nar", rescore=5).build_generator([golden_model("mixed")], cfg)
    assert {len(text["tokens"]) - 1 for text in best(generator, pairs("test")).values()} <= {3, 4}


def test_refusals_and_warnings(golden_model, make_task, make_model, caplog):
    with pytest.raises(ValueError, match="--rescore 1: there is a choice from 2 candidates on"):
        make_task(decoding="nar", rescore=1).build_generator([golden_model("mixed")], options())
    with pytest.raises(ValueError, match="--rescore: this checkpoint's model does not run AR"):
        make_task(decoding="nar", rescore=2).build_generator([make_model("bang_nar")], options())
    with caplog.at_level(logging.WARNING):
        make_task(decoding="ar", rescore=2).build_generator([golden_model("mixed")], options())
    assert "--rescore has no effect with --decoding ar" in caplog.text


@pytest.mark.parametrize("trained, warned", [({"nar": 1.0}, True), ({"ar": 0.5, "nar": 0.5}, False), ({}, False)])
def test_a_choice_by_what_was_not_trained_is_told(trained, warned, golden_model, make_task, caplog):
    """A mixed model decodes AR whatever it was trained for; where nobody knows nothing is said."""
    model = golden_model("mixed")
    model.trained_modes = trained
    with caplog.at_level(logging.WARNING):
        make_task(decoding="nar", rescore=2).build_generator([model], options())
    assert (
        "--rescore: this checkpoint was not trained for AR, which chooses the text, but for nar alone" in caplog.text
    ) == warned


def test_the_host_waits_once_a_pass(golden_model, make_task, pairs, monkeypatch):
    """Where tokens are chosen by numpy: once for the lengths of a batch, once for all scores, however many candidates."""
    model, waits, cpu = golden_model("mixed"), [], torch.Tensor.cpu
    monkeypatch.setattr(torch.Tensor, "cpu", lambda tensor: waits.append(1) or cpu(tensor))
    (batch,) = pairs("test")
    for candidates in (2, 5):
        waits.clear()
        make_task(decoding="nar", rescore=candidates).build_generator([model], options()).generate(None, batch)
        assert len(waits) == 2


def test_an_ensemble_chooses_by_its_mean(golden_model, make_task, pairs):
    """The same model twice is that model."""
    model = golden_model("mixed")
    once, twice = (best(make_task(decoding="nar", rescore=3).build_generator(models, options()), pairs())
                   for models in ([model], [model, model]))  # fmt: skip
    for sentence, text in once.items():
        assert torch.equal(text["tokens"], twice[sentence]["tokens"])
        torch.testing.assert_close(text["positional_scores"], twice[sentence]["positional_scores"], atol=1e-5, rtol=0)
