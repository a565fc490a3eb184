"""--rescore: the best paths of one pass, and the AR stream's choice."""

import logging
from dataclasses import replace

import numpy as np
import pytest
import torch
from support.generation import options

from bang import visibility
from bang.decoding import rescore
from bang.decoding.candidates import Slots, likeliest
from bang.decoding.search import Rules, best_paths
from bang.decoding.source_pairs import SourcePairs
from bang.inference.api import Bang
from bang.options import Options
from bang.trained_modes import Blocks


def ar_scores(model, source, tokens):
    """AR's log-probabilities of a text, teacher-forced: straight from the model."""
    text = torch.tensor(tokens)
    previous = torch.cat([text[-1:], text[:-1]])[None]
    with torch.no_grad():
        layout = visibility.autoregressive(len(text))
        logits = model(torch.from_numpy(source)[None], torch.tensor([len(source)]), previous, layout=layout)[0]
    return torch.log_softmax(logits.float().view(len(text), -1), -1).gather(1, text[:, None])[:, 0].numpy()


def candidates(model, source, link, count, longest, eos_penalty):
    """The best paths through the slots of one teacher-forced pass, eos included."""
    dictionary = model.decoder.dictionary
    pad, unk, eos = dictionary.pad(), dictionary.unk(), dictionary.eos()
    with torch.no_grad():
        canvas = torch.full((1, 1 + longest), pad)
        layout = visibility.non_autoregressive(1 + longest)
        logits = model(torch.from_numpy(source)[None], torch.tensor([len(source)]), canvas, layout=layout)[0]
    scores = torch.log_softmax(logits.float(), -1).numpy()
    end = scores[..., eos].copy()
    scores[..., [pad, eos]] = -np.inf
    slots, one = Slots(*likeliest(scores, link.weights.candidates), end), np.ones(1, dtype=np.int64)
    rules = Rules(one, one * longest, pad, eos, unk, eos_penalty)
    pairs = SourcePairs(source[None], link.size, (pad, eos))
    paths = best_paths(link, pairs, np.array([[eos]]), one, rules, slots, count)
    return [paths.tokens[0, n, : paths.length[0, n]].tolist() for n in range(count) if paths.ended[0, n]]


@pytest.mark.parametrize("eos_penalty, len_penalty", [(0.0, 1.0), (2.0, 0.7)])
def test_the_choice_is_the_best_path_for_ar(eos_penalty, len_penalty, golden_model, linked, link, sources):
    model, changed = golden_model("mixed"), 0
    asked = Options(mode="nar", max_len=30, rescore=4, eos_penalty=eos_penalty, len_penalty=len_penalty)
    eos = model.decoder.dictionary.eos()
    for source, found in zip(sources[:12], linked.generate(sources[:12], asked)):
        texts = candidates(model, source, link, 4, 30, eos_penalty)
        scores = [ar_scores(model, source, text) for text in texts]
        worth = [of_text.sum() / len(of_text) ** len_penalty for of_text in scores]
        best = int(np.argmax(worth))
        assert [*found.tokens, eos] == texts[best]
        assert found.score == pytest.approx(worth[best], abs=2e-5)
        assert found.positional_scores == pytest.approx(scores[best].tolist(), abs=1e-4)
        assert len(found.passes) == len(texts[best])
        changed += best > 0
    assert changed >= 3


def test_path_scores_are_told_of_what_ar_chose(linked, sources):
    """The path's, not AR's: at most that of the best path."""
    best = linked.generate(sources, Options(mode="nar", max_len=30))
    chosen = linked.generate(sources, Options(mode="nar", max_len=30, rescore=4))
    for one, other in zip(best, chosen):
        assert other.path_score <= one.path_score + 1e-3 or other.tokens != one.tokens  # more paths: a wider beam
        if other.tokens == one.tokens:
            assert other.path_score == pytest.approx(one.path_score, abs=1e-3)
            assert other.score != one.score


def test_many_candidates_are_scored_in_parts(linked, linked_runtime, sources, monkeypatch):
    asked = Options(mode="nar", max_len=30, rescore=4)
    expected = [engine.generate(sources, asked) for engine in (linked, linked_runtime.engine)]
    monkeypatch.setattr(rescore, "_AT_ONCE", 50)
    for engine, whole in zip((linked, linked_runtime.engine), expected):
        parts = engine.generate(sources, asked)
        assert [text.tokens for text in parts] == [text.tokens for text in whole]
        assert [text.score for text in parts] == pytest.approx([text.score for text in whole], abs=2e-5)


def test_limits_hold(linked, sources):
    found = linked.generate(sources, Options(mode="nar", max_len=4, min_len=3, rescore=5))
    assert {len(text.tokens) for text in found} <= {3, 4}


def test_refusals_and_warnings_of_the_task(golden_model, make_task, make_model, link_file, caplog):
    def build(model, **given):
        return make_task(**given).build_generator([model], options())

    link, model = str(link_file), golden_model("mixed")
    with pytest.raises(ValueError, match="^rescore=1: a choice needs 2 candidates or more"):
        build(model, decoding="nar", rescore=1, link=link)
    with pytest.raises(ValueError, match="^--rescore: this checkpoint's model does not run AR"):
        build(make_model("bang_nar"), decoding="nar", rescore=2, link=link)
    with caplog.at_level(logging.WARNING):
        build(model, decoding="nar", rescore=2)
    assert "--rescore has no effect without --link, whose paths are the candidates" in caplog.text
    for mode in ("ar", "semi-nar"):
        with caplog.at_level(logging.WARNING):
            build(model, decoding=mode, rescore=2)
        assert f"--rescore has no effect with --decoding {mode}" in caplog.text


def test_refusals_of_the_api(linked_runtime, runtime):
    def refused(message, model=linked_runtime, **given):
        with pytest.raises(ValueError, match=message):
            model.generate("a text", **given)

    refused("^rescore=1: a choice needs 2 candidates or more", mode="nar", rescore=1)
    refused("^rescore=4: mode semi-nar has no candidates, which are nar's: leave it out", mode="semi-nar", rescore=4)
    refused("^rescore=4: the candidates are a link's paths, and there is none; ", mode="nar", rescore=4, link=False)
    refused("^rescore=4: the candidates are a link's paths, and there is none; ", runtime, mode="nar", rescore=4)
    by_default = Bang(linked_runtime.engine, linked_runtime.pieces, replace(linked_runtime.defaults, rescore=4))
    by_default.generate("a text", mode="semi-nar", max_len=8)  # a default of the model is no mistake of the caller


@pytest.mark.parametrize("shares, warned", [({"nar": 1.0}, True), ({"ar": 0.5, "nar": 0.5}, False), ({}, False)])
def test_a_choice_by_what_was_not_trained_is_told(shares, warned, golden_model, make_task, link_file, caplog):
    """A mixed model decodes AR whatever it was trained for; where nobody knows nothing is said."""
    model = golden_model("mixed")
    model.trained_modes, model.trained_blocks = shares, Blocks(1, 1)
    with caplog.at_level(logging.WARNING):
        make_task(decoding="nar", rescore=2, link=str(link_file)).build_generator([model], options())
    assert ("rescore=2: this model was not trained for AR (nar 100%), which chooses the text" in caplog.text) == warned


def test_the_host_waits_as_often_however_many_candidates(golden_model, make_task, pairs, link_file, monkeypatch):
    model, waits, cpu = golden_model("mixed"), [], torch.Tensor.cpu
    monkeypatch.setattr(torch.Tensor, "cpu", lambda tensor: waits.append(1) or cpu(tensor))
    (batch,) = pairs("test")
    for count in (2, 5):
        waits.clear()
        task = make_task(decoding="nar", rescore=count, link=str(link_file))
        task.build_generator([model], options(max_len_b=12)).generate(None, batch)
        assert len(waits) == 2  # for the lengths of a batch, and its sources


def test_an_ensemble_chooses_by_its_mean(golden_model, make_task, pairs, link_file):
    """The same model twice is that model."""
    model, (batch,) = golden_model("mixed"), pairs()
    once, twice = (
        make_task(decoding="nar", rescore=3, link=str(link_file)).build_generator(models, options()).generate(None, batch)
        for models in ([model], [model, model])
    )
    for (text,), (other,) in zip(once, twice, strict=True):
        assert torch.equal(text["tokens"], other["tokens"])
        torch.testing.assert_close(text["positional_scores"], other["positional_scores"], atol=1e-5, rtol=0)
