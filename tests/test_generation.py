"""Decoding: the reference's texts and scores; a sentence's output is its own."""

import math

import pytest
import torch
from conftest import GOLDEN, hypotheses
from support.generation import decode, options

from bang.decoding import loop
from bang.text.cleanup import clean_up

AR_RUNS = {
    "ar_beam1": dict(beam=1),
    "ar_beam4_lenpen1.2": dict(beam=4, lenpen=1.2),
    "ar_beam5_ngram3_min6": dict(beam=5, no_repeat_ngram_size=3, min_len=6, max_len_b=40),
}


@pytest.mark.parametrize("split", ["train", "test"])
@pytest.mark.parametrize("run_name", AR_RUNS)
def test_autoregressive_texts_and_scores_are_the_reference(run_name, split, golden_model, make_task, pairs, dictionary):
    expected = hypotheses((GOLDEN / "mixed" / f"generate_{split}_{run_name}.txt").read_text(), base=math.e)
    generator = make_task().build_generator([golden_model("mixed")], options(**AR_RUNS[run_name]))
    found = decode(generator, pairs(split, 7 if "ngram3" in run_name else 36), dictionary)
    assert found.keys() == expected.keys()
    for sentence, (score, text) in expected.items():
        assert found[sentence][1] == text
        assert found[sentence][0] == pytest.approx(score, abs=2e-6)


@pytest.mark.parametrize("split", ["train", "test"])
@pytest.mark.parametrize("name", ["mixed", "nar"])
def test_nar_texts_are_the_reference(name, split, golden_model, make_task, pairs, dictionary):
    generator = make_task(decoding="nar").build_generator([golden_model(name)], options())
    found = decode(generator, pairs(split), dictionary)
    canvases = (GOLDEN / name / f"generate_{split}_nar.sorted.txt").read_text().splitlines()
    cleaned = (GOLDEN / name / f"generate_{split}_nar.dedup.txt").read_text().splitlines()
    assert len(found) == len(canvases) == len(cleaned)
    for sentence, (canvas, text) in enumerate(zip(canvases, cleaned)):
        pieces = canvas.split(" ")
        kept = next(index for index, piece in enumerate(pieces) if piece != "[SEP]")
        cut = pieces[: pieces.index("[SEP]", kept)]
        assert found[sentence][1] == " ".join(piece for piece in cut if piece not in ("[SEP]", "[CLS]"))
        assert clean_up(found[sentence][1]) == text


DECODINGS = {
    "ar": dict(beam=4, lenpen=1.2),
    "ar, length by source": dict(beam=3, max_len_a=0.2, max_len_b=2),
    "nar": {},
    "nar, length by source": dict(max_len_a=0.2, max_len_b=2),
    "semi-nar": {},
}


@pytest.mark.parametrize("name", DECODINGS)
def test_a_sentence_is_decoded_as_if_alone(name, golden_model, make_task, pairs, dictionary):
    task = make_task(decoding=name.split(",")[0])
    generator = task.build_generator([golden_model("mixed")], options(**DECODINGS[name]))
    alone = decode(generator, pairs("test", 1), dictionary)
    assert len(alone) == 24 and len({text for _, text, _ in alone.values()}) > 12
    padded = pairs("test", 12)
    for batch in padded:
        tokens = batch["net_input"]["src_tokens"]
        batch["net_input"]["src_tokens"] = torch.cat([tokens.new_zeros(len(tokens), 9), tokens], 1)
    for batches in (pairs("test", 7), pairs("test", 36), pairs("test", 5, permute=1), padded):
        together = decode(generator, batches, dictionary)
        assert together.keys() == alone.keys()
        for sentence in alone:
            assert together[sentence][1] == alone[sentence][1]
            assert together[sentence][0] == pytest.approx(alone[sentence][0], abs=1e-5)
            assert together[sentence][2] == pytest.approx(alone[sentence][2], abs=1e-4)


def test_semi_nar_with_blocks_of_one_is_greedy(golden_model, make_task, pairs, dictionary):
    model = golden_model("mixed")
    # no leading eos in either: fairseq's minimum length is 1
    semi = make_task(decoding="semi-nar", block_size=1).build_generator([model], options())
    greedy = make_task().build_generator([model], options(beam=1))
    for split in ("train", "test"):
        a, b = decode(semi, pairs(split), dictionary), decode(greedy, pairs(split), dictionary)
        assert {k: v[1] for k, v in a.items()} == {k: v[1] for k, v in b.items()}
        for sentence in a:
            assert a[sentence][0] == pytest.approx(b[sentence][0], abs=1e-5)


@pytest.mark.parametrize("block", [2, 3, 7])
def test_semi_nar_commits_blocks(block, golden_model, make_task, pairs, dictionary):
    """Against plain decoding without a cache: the whole committed text again for each block."""
    from bang import visibility

    model = golden_model("mixed")
    found = decode(
        make_task(decoding="semi-nar", block_size=block).build_generator([model], options(max_len_b=20)), pairs("test", 36),
        dictionary,
    )  # fmt: skip
    (batch,) = pairs("test", 36)
    eos = dictionary.eos()
    for row, sentence in enumerate(batch["id"].tolist()):
        source = batch["net_input"]["src_tokens"][row : row + 1]
        lengths = batch["net_input"]["src_lengths"][row : row + 1]
        tokens = torch.tensor([[eos]])
        text = []
        while len(text) < 20 and eos not in text:
            with torch.no_grad():
                next_block = visibility.Layout(1, block, tokens.size(1) - 1, 0, tokens.size(1))
                logits, _ = model(source, lengths, tokens, layout=next_block)
            logits[:, :, dictionary.pad()] = -math.inf
            if not text:
                logits[:, 0, eos] = -math.inf
            tokens = torch.cat([tokens, logits.argmax(2)], 1)
            text = tokens[0, 1:].tolist()
        text = (text + [eos])[:20]
        assert found[sentence][1] == dictionary.string(torch.tensor(text[: (text + [eos]).index(eos)]))


def test_nar_stops_early_with_the_text_of_the_whole_canvas(golden_model, make_task, pairs, dictionary, monkeypatch):
    model = golden_model("mixed")
    generator = make_task(decoding="nar").build_generator([model], options())
    pieces = decode(generator, pairs("test"), dictionary)
    assert loop.NAR_FIRST_PIECE > 3
    generator.strategy = generator.strategy._replace(drafts=2)
    small = decode(generator, pairs("test"), dictionary)
    monkeypatch.setattr(loop, "NAR_FIRST_PIECE", 200)
    generator.strategy = generator.strategy._replace(drafts=200)
    whole = decode(generator, pairs("test"), dictionary)
    for sentence in whole:
        assert pieces[sentence][1] == whole[sentence][1] == small[sentence][1]
        assert small[sentence][2] == pytest.approx(whole[sentence][2], abs=1e-5)


def test_positional_scores_are_log_probabilities(golden_model, make_task, pairs, dictionary):
    from bang import visibility

    model = golden_model("mixed")
    (batch,) = pairs("test", 36)
    hypos = make_task(decoding="nar").build_generator([model], options(lenpen=2.0)).generate([model], batch)
    with torch.no_grad():
        logits, _ = model(**batch["net_input"], layout=visibility.non_autoregressive(40))
    lprobs = logits.log_softmax(2)
    for row, (hypo,) in enumerate(hypos):
        length = len(hypo["tokens"])
        assert hypo["tokens"][-1] == dictionary.eos() and length == len(hypo["positional_scores"])
        expected = lprobs[row, torch.arange(length), hypo["tokens"]]
        torch.testing.assert_close(hypo["positional_scores"], expected, atol=1e-5, rtol=0)
        assert float(hypo["score"]) == pytest.approx(expected.sum().item() / length**2, abs=1e-5)


@pytest.mark.parametrize("decoding", ["nar", "semi-nar"])
def test_length_limits(decoding, golden_model, make_task, pairs, dictionary):
    model = golden_model("mixed")
    free = decode(make_task(decoding=decoding).build_generator([model], options()), pairs(), dictionary)
    assert max(len(text.split()) for _, text, _ in free.values()) > 4
    for task_options, generation in (({}, dict(max_len_b=4)), ({"max_nar_length": 4}, {})):
        task = make_task(decoding=decoding, **task_options)
        cut = decode(task.build_generator([model], options(**generation)), pairs(), dictionary)
        assert max(len(text.split()) for _, text, _ in cut.values()) == 4
        for sentence, (_, text, scores) in cut.items():
            assert free[sentence][1].split()[: len(text.split())] == text.split()
            assert len(scores) == len(text.split()) + 1  # eos is scored, as fairseq's generators do
    long = decode(make_task(decoding=decoding).build_generator([model], options(min_len=12)), pairs(), dictionary)
    assert min(len(scores) for _, _, scores in long.values()) >= 13
    with pytest.raises(ValueError, match="--min-len 9 is larger"):
        generator = make_task(decoding=decoding).build_generator([model], options(min_len=9, max_len_b=5))
        decode(generator, pairs(), dictionary)


@pytest.mark.parametrize("decoding", ["ar", "nar", "semi-nar"])
def test_a_limit_by_source_wins_over_min_len(decoding, golden_model, make_task, pairs, dictionary):
    """And no sentence's limit is another one's error."""
    task = make_task(decoding=decoding)
    generator = task.build_generator([golden_model("mixed")], options(beam=2, max_len_a=0.2, max_len_b=0, min_len=9))
    found = decode(generator, pairs(), dictionary)
    for batch in pairs():
        for sentence, length in zip(batch["id"].tolist(), batch["net_input"]["src_lengths"].tolist()):
            limit = int(0.2 * length)
            assert min(9, limit) <= len(found[sentence][2]) - 1 <= limit


@pytest.mark.parametrize("decoding", ["ar", "nar", "semi-nar", "speculative"])
def test_limits_are_counted_alike(decoding, make_model, make_task):
    """0.29 x 100 is 28.999... in double precision: 28 tokens."""
    generator = make_task(decoding=decoding).build_generator(
        [make_model()], options(beam=1, max_len_a=0.29, max_len_b=0, min_len=28)
    )
    source = torch.randint(110, 1000, (1, 100))
    ((hypo,),) = generator.generate(None, {"net_input": {"src_tokens": source, "src_lengths": torch.tensor([100])}})
    assert len(hypo["tokens"]) == 28 + 1


def test_unkpen(golden_model, make_task, pairs, dictionary):
    model = golden_model("mixed")
    eager = decode(make_task(decoding="nar").build_generator([model], options(unkpen=-100.0)), pairs(), dictionary)
    assert all(set(text.split()) == {"[UNK]"} for _, text, _ in eager.values())
    never = decode(make_task(decoding="nar").build_generator([model], options(unkpen=100.0)), pairs(), dictionary)
    assert not any("[UNK]" in text for _, text, _ in never.values())


@pytest.mark.parametrize("decoding", ["ar", "nar", "semi-nar"])
def test_ensembles_average_probabilities(decoding, golden_model, make_task, pairs, dictionary):
    models = [golden_model("mixed"), golden_model("nar")]
    task = make_task(decoding=decoding)
    twice = decode(task.build_generator([models[0], models[0]], options(beam=2)), pairs(), dictionary)
    once = decode(task.build_generator(models[:1], options(beam=2)), pairs(), dictionary)
    both = decode(task.build_generator(models, options(beam=2)), pairs(), dictionary)
    assert {k: v[1] for k, v in twice.items()} == {k: v[1] for k, v in once.items()}
    assert {k: v[1] for k, v in both.items()} != {k: v[1] for k, v in once.items()}
    if decoding == "nar":
        from bang import visibility

        (batch,) = pairs("test", 36)
        with torch.no_grad():
            layout = visibility.non_autoregressive(1)
            mean = sum(model(**batch["net_input"], layout=layout)[0].softmax(2) for model in models) / 2
        mean[:, :, [dictionary.pad(), dictionary.eos()]] = 0
        for row, sentence in enumerate(batch["id"].tolist()):
            assert both[sentence][2][0] == pytest.approx(mean[row, 0].max().log().item(), abs=1e-5)


def test_a_canvas_may_begin_with_eos_and_a_block_may_not(golden_model, make_task):
    models = [golden_model("mixed")]
    for decoding, settings, least in (
        ("nar", {}, 0),
        ("nar", dict(min_len=2), 2),
        ("semi-nar", {}, 1),
        ("semi-nar", dict(min_len=3), 3),
    ):
        generator = make_task(decoding=decoding).build_generator(models, options(**settings))
        assert generator.min_len == least


def test_score_reference_in_the_mode_of_decoding(golden_model, make_task, pairs):
    from bang import visibility

    model = golden_model("mixed")
    layouts = {
        "ar": visibility.autoregressive,
        "nar": visibility.non_autoregressive,
        "semi-nar": lambda length: visibility.semi_autoregressive(length, 4),
    }
    for decoding, layout in layouts.items():
        (batch,) = pairs("test", 36)
        generator = make_task(decoding=decoding).build_generator([model], options(score_reference=True))
        hypos = generator.generate([model], batch)
        with torch.no_grad():
            lprobs = model(**batch["net_input"], layout=layout(batch["target"].size(1)))[0].log_softmax(2)
        for row, (hypo,) in enumerate(hypos):
            target = batch["target"][row][batch["target"][row] != 0]
            expected = lprobs[row, torch.arange(len(target)), target]
            torch.testing.assert_close(hypo["positional_scores"], expected, atol=1e-5, rtol=0)


def test_models_that_do_not_serve_a_mode(make_model, make_task):
    for name, decoding in (("bang_nar", "ar"), ("bang_ar", "nar"), ("bang_nar", "semi-nar")):
        with pytest.raises(ValueError, match=f"--decoding {decoding}: this checkpoint's model decodes"):
            make_task(decoding=decoding).build_generator([make_model(name)], options())


@pytest.mark.parametrize(
    "decoding,task_options,generation,idle",
    [
        ("nar", {}, dict(beam=4), ["--beam"]),
        ("nar", {}, dict(beam=1), []),
        ("nar", {"block_size": 7}, dict(no_repeat_ngram_size=3, nbest=2), ["--block-size", "--no-repeat-ngram-size", "--nbest"]),
        ("semi-nar", {"block_size": 7}, dict(sampling=True), ["--sampling"]),
        ("ar", {"max_nar_length": 9}, dict(beam=4), ["--max-nar-length"]),
        ("ar", {}, dict(beam=4, lenpen=1.2), []),
        ("ar", {"eos_penalty": 1.0}, dict(beam=1), ["--eos-penalty"]),
        ("speculative", {"eos_penalty": 1.0}, dict(beam=1), ["--eos-penalty"]),
        ("nar", {"eos_penalty": 1.0}, dict(beam=1), []),
    ],
)
def test_options_without_effect_are_named(decoding, task_options, generation, idle, make_model, make_task, caplog):
    make_task(decoding=decoding, **task_options).build_generator([make_model()], options(**generation))
    warned = {record.getMessage().split(" ")[0] for record in caplog.records if "has no effect" in record.getMessage()}
    assert warned == set(idle)


@pytest.mark.parametrize("decoding", ["nar", "semi-nar"])
def test_a_penalty_below_zero_leaves_no_text_empty(decoding, golden_model, make_task, pairs):
    """An end that is always the likeliest: texts have the least length."""
    (batch,) = pairs("test", 36)
    for min_len in (1, 3):
        generator = make_task(decoding=decoding, eos_penalty=-100.0).build_generator(
            [golden_model("mixed")], options(min_len=min_len)
        )
        tokens = [text["tokens"] for (text,) in generator.generate(None, batch)]
        assert all(len(text) == min_len + 1 and (text[:-1] != generator.chooser.eos).all() for text in tokens)
