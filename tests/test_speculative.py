"""Speculative decoding and the dial, with the network: AR's words, whatever the drafts are worth."""

import gc
import json
import logging
import os
import re

import numpy as np
import pytest
import torch
from conftest import GOLDEN, ROOT, hypotheses
from fairseq import utils
from support.generation import decode, options

from bang import modes
from bang.decoding import passes
from bang.decoding.choice import Bounds, Chooser
from bang.generation.session import TorchSession
from bang.options import SOURCE_GAIN


@pytest.fixture
def compare(make_task, pairs, dictionary):
    """Decodes a split both ways and compares texts and scores; returns the statistics' summary."""

    def call(models, split="test", batch_size=7, draft_length=4, gain=SOURCE_GAIN, **generation):
        both = []
        for decoding in ("ar", "speculative"):
            drafting = {} if decoding == "ar" else dict(draft_length=draft_length, draft_from_source=gain)
            task = make_task(decoding=decoding, **drafting)
            beam = {"beam": 1} if decoding == "ar" else {}
            generator = task.build_generator(models, options(**{**generation, **beam}))
            both.append(decode(generator, pairs(split, batch_size), dictionary))
        ar, speculative = both
        assert speculative.keys() == ar.keys()
        for sentence, (score, text, scores) in ar.items():
            assert speculative[sentence][1] == text
            assert speculative[sentence][0] == pytest.approx(score, abs=1e-4)
            assert speculative[sentence][2] == pytest.approx(scores, abs=1e-4)
        return generator.statistics.summary()

    return call


@pytest.mark.parametrize("draft_length", [1, 2, 4, 6])
@pytest.mark.parametrize("batch_size", [1, 8, 36])
def test_the_words_are_those_of_greedy_ar(draft_length, batch_size, compare, golden_model):
    summary = compare([golden_model("mixed")], batch_size=batch_size, draft_length=draft_length)
    assert summary["passes"] < summary["tokens"]  # some drafts are accepted


@pytest.mark.parametrize("gain", [0.0, 4.0, 1000.0])
@pytest.mark.parametrize("batch_size", [1, 8])
def test_whatever_the_source_has_to_say(gain, batch_size, compare, golden_model):
    compare([golden_model("mixed")], batch_size=batch_size, gain=gain)
    compare([golden_model("mixed"), golden_model("nar")], batch_size=batch_size, gain=gain, max_len_b=9)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mixed", "nar"])
@pytest.mark.parametrize("split", ["train", "valid", "test"])
def test_the_words_are_those_of_greedy_ar_in_all_golden_texts(name, split, compare, golden_model):
    for batch_size in (1, 8, 36):
        for draft_length in range(1, 7):
            compare([golden_model(name)], split, batch_size, draft_length)


@pytest.mark.parametrize("batch_size", [1, 8])
def test_worthless_drafts_change_nothing(batch_size, compare, make_model):
    summary = compare([make_model()], batch_size=batch_size, max_len_b=20)
    assert summary["texts"] == 24


@pytest.mark.parametrize(
    "generation",
    [
        dict(min_len=9),
        dict(max_len_a=0.2, max_len_b=2),
        dict(max_len_a=0.2, max_len_b=0, min_len=9),
        dict(unkpen=-2.0),
        dict(no_repeat_ngram_size=2, min_len=12),
        dict(max_len_b=0, min_len=0),
        dict(temperature=0.7, lenpen=0.3),
        dict(unnormalized=True),
    ],
    ids=str,
)
def test_options_mean_what_they_mean_to_ar(generation, compare, golden_model):
    compare([golden_model("mixed")], **generation)


def test_ensembles(compare, golden_model):
    compare([golden_model("mixed"), golden_model("nar")])


@pytest.mark.parametrize("width", [1, 3, 30])
def test_prefixes(width, golden_model, make_task, pairs):
    """Of rows with different lengths, some whole targets with their eos."""
    for batch in pairs("test", 12):
        found = []
        for decoding in ("ar", "speculative", "semi-nar"):
            task = make_task(decoding=decoding, block_size=1)
            generator = task.build_generator([golden_model("mixed")], options(beam=1))
            found.append(generator.generate(None, batch, prefix_tokens=batch["target"][:, :width]))
        for (ar,), *others in zip(*found):
            for (other,) in others:
                assert torch.equal(ar["tokens"], other["tokens"])
                torch.testing.assert_close(ar["positional_scores"], other["positional_scores"], atol=1e-4, rtol=0)


@pytest.mark.parametrize("width", [0, 2])
def test_the_dial_keeps_no_unsure_token(width, golden_model, make_task, pairs):
    """Behind a prefix as without one: a token has the probability asked for, or is what AR gives behind those before it."""
    task, model = make_task(decoding="semi-nar", block_size=4, commit_threshold=0.25), golden_model("mixed")
    generator = task.build_generator([model], options(max_len_b=20))
    unsure = unverified = 0
    for batch in pairs("test", 12):
        prefix = batch["target"][:, :width] if width else None
        for row, (text,) in enumerate(generator.generate(None, batch, prefix_tokens=prefix)):
            source = {name: batch["net_input"][name][row : row + 1] for name in ("src_tokens", "src_lengths")}
            tokens = text["tokens"]
            with torch.no_grad():
                logits = model(**source, prev_output_tokens=tokens.roll(1)[None])[0]
            logits[..., 0] = -np.inf  # pad
            of_ar = logits[0].argmax(-1) == tokens
            sure = text["positional_scores"] >= np.log(0.25) - 1e-5
            at_limit = torch.arange(len(tokens)) == 20
            assert (of_ar | sure | at_limit)[width:].all()
            unsure, unverified = unsure + int((of_ar & ~sure).sum()), unverified + int((~of_ar & sure).sum())
    assert unsure and unverified


def test_rejected_drafts_leave_no_trace(golden_model, pairs, dictionary):
    """Logits after many passes of wrong drafts, of ragged lengths, against a pass without a cache."""
    model = golden_model("mixed")
    (batch,) = pairs("test", 36)
    net_input = {name: batch["net_input"][name][:5] for name in ("src_tokens", "src_lengths")}
    seen = []

    class Spy(Chooser):
        def __call__(self, xp, logits, target, *rest):
            seen.append((np.array(target), logits[0].copy()))
            return super().__call__(xp, logits, target, *rest)

    chooser = Spy(dictionary.pad(), dictionary.unk(), dictionary.eos())
    least, limit = np.full(5, 9), np.full(5, 14)
    session = TorchSession([model], **net_input, chooser=chooser, bounds=Bounds(least, limit, np.arange(5)))
    kept, rng, ragged = np.full((5, 40), dictionary.eos()), np.random.default_rng(3), False
    length = np.ones(5, dtype=np.int64)
    with torch.no_grad():
        for _ in range(8):
            tokens = np.concatenate([kept[np.arange(5), length - 1][:, None], rng.integers(5, 900, (5, 3))], 1)
            anchor = length[:, None] - 1 + np.arange(4)
            first_of_pass = len(seen)
            session.run(passes.Pass(tokens, length - 1, anchor, (3,) * 4, 2, ends=False))
            target, logits = seen[first_of_pass]
            assert (target == anchor).all()
            for row in range(5):
                history = torch.from_numpy(np.concatenate([kept[row, : length[row] - 1], tokens[row]]))[None]
                source = net_input["src_tokens"][row : row + 1, -int(net_input["src_lengths"][row]) :]
                alone, _ = model(source, net_input["src_lengths"][row : row + 1], history)
                wanted = alone[0, length[row] - 1 :]
                torch.testing.assert_close(torch.from_numpy(logits[row]), wanted, atol=2e-5, rtol=0)
            # rows keep different numbers of what they were fed, and go on with a token of their own
            taken = rng.integers(0, 3, 5)
            for row in range(5):
                kept[row, length[row] : length[row] + taken[row]] = tokens[row, 1 : 1 + taken[row]]
                kept[row, length[row] + taken[row]] = rng.integers(5, 900)
            length = length + taken + 1
            ragged |= len(set(length)) > 1
    assert ragged


def test_drawn_texts_are_those_drawn_token_by_token(golden_model, make_task, pairs, dictionary):
    """The noise is the target's own: drafts decide how many passes it takes, never the words."""
    model, found = golden_model("mixed"), []
    for draft_length, batch_size in ((4, 7), (1, 36), (None, 1)):
        torch.manual_seed(5)
        task = make_task(decoding="speculative", draft_length=draft_length or 1)
        generator = task.build_generator([model], options(sampling=True, sampling_topk=20, temperature=0.8, max_len_b=25))
        if draft_length is None:
            generator.strategy = modes.strategy("ar")
        found.append(decode(generator, pairs("test", batch_size), dictionary))
        passes = generator.statistics.summary()
    assert passes["tokens_a_pass"] == 1
    for sentence in found[0]:
        assert found[0][sentence][1] == found[1][sentence][1] == found[2][sentence][1]
    torch.manual_seed(6)
    other = decode(task.build_generator([model], options(sampling=True)), pairs("test"), dictionary)
    assert sum(other[sentence][1] != found[0][sentence][1] for sentence in other) > 12


def test_drawn_texts_have_the_models_distribution(golden_model, make_task, pairs, dictionary):
    """First two tokens of one sentence, 2,000 times: chi-squared against the model's probabilities."""
    model = golden_model("mixed")
    batch = pairs("test", 1)[0]
    times = 2000
    net_input = {name: batch["net_input"][name].repeat_interleave(times, 0) for name in ("src_tokens", "src_lengths")}
    torch.manual_seed(1)
    task = make_task(decoding="speculative", draft_length=3)
    generator = task.build_generator([model], options(sampling=True, sampling_topk=6, max_len_b=2))
    hypos = generator.generate([model], {"net_input": net_input, "id": torch.arange(times)})
    pairs_drawn = [tuple(hypo["tokens"][:2].tolist()) for (hypo,) in hypos]

    def next_token(text):
        tokens = torch.tensor([[dictionary.eos(), *text]])
        logits = model(batch["net_input"]["src_tokens"], batch["net_input"]["src_lengths"], tokens)[0][0, -1]
        logits[dictionary.pad()] = -np.inf
        if not text:
            logits[dictionary.eos()] = -np.inf
        top = logits.topk(6)
        return dict(zip(top.indices.tolist(), top.values.softmax(0).tolist()))

    with torch.no_grad():
        expected = {}
        for first, chance in next_token(()).items():
            for second, next_chance in next_token((first,)).items():
                expected[first, second] = chance * next_chance * times
    assert set(pairs_drawn) <= set(expected)
    statistic = sum((pairs_drawn.count(pair) - number) ** 2 / number for pair, number in expected.items())
    assert statistic < 80  # 35 degrees of freedom: above 80 once in 40,000 runs; the seed is fixed
    assert generator.statistics.summary()["passes"] < 3 * times


@pytest.mark.parametrize("threshold", [0.0, 0.5, 1.0])
def test_the_dial_goes_from_semi_nar_to_greedy_ar(threshold, golden_model, make_task, pairs, dictionary):
    model = golden_model("mixed")
    task = make_task(decoding="semi-nar", block_size=3, commit_threshold=threshold)
    generator = task.build_generator([model], options(max_len_b=20))
    found = decode(generator, pairs("test", 7), dictionary)
    kept = generator.statistics.kept
    if threshold == 0.5:
        assert kept[1] and kept[2]  # as far as the model is sure
        alone = decode(task.build_generator([model], options(max_len_b=20)), pairs("test", 1), dictionary)
        assert all(alone[sentence][1] == found[sentence][1] for sentence in found)
        return
    same = make_task(decoding="semi-nar", block_size=3) if threshold == 0 else make_task()
    other = decode(same.build_generator([model], options(max_len_b=20, beam=1)), pairs("test", 7), dictionary)
    assert {k: v[1] for k, v in found.items()} == {k: v[1] for k, v in other.items()}


@pytest.mark.parametrize(
    "task_options,generation,message",
    [
        (dict(decoding="speculative"), dict(beam=4), "--beam 4 with --decoding speculative"),
        (dict(decoding="speculative", draft_length=0), {}, "draft_length=0"),
        (dict(decoding="speculative", draft_from_source=-1), {}, "draft_from_source=-1"),
        (dict(decoding="semi-nar", commit_threshold=1.2), {}, "commit_threshold=1.2"),
        (dict(decoding="speculative"), dict(temperature=0.0), "--temperature 0.0"),
    ],
)
def test_what_cannot_be_is_refused(task_options, generation, message, make_model, make_task, caplog):
    """In one line: nothing is warned of before."""
    with pytest.raises(ValueError, match=message) as refusal:
        make_task(**task_options).build_generator([make_model()], options(**generation))
    assert "\n" not in str(refusal.value) and not [record for record in caplog.records if record.levelname == "WARNING"]


@pytest.mark.parametrize("decoding", ["semi-nar", "speculative"])
def test_a_pass_is_read_once(decoding, golden_model, make_task, pairs, monkeypatch):
    """The same on a device's side: tokens chosen by torch, and read by `read` alone, once a pass."""
    task, read, reads = make_task(decoding=decoding), TorchSession.read, []
    monkeypatch.setattr(TorchSession, "read", lambda self, *found: reads.append(1) or read(self, *found))
    plain = TorchSession.__init__

    def chosen_by_torch(self, models, src_tokens, *arguments):
        plain(self, models, src_tokens, *arguments)
        self.xp, self.source = torch, src_tokens
        self.bounds = Bounds(*map(self.send, self.bounds))

    (batch,) = pairs("test", 24)
    generator = task.build_generator([golden_model("mixed")], options(max_len_b=20))
    expected = generator.generate(None, batch)
    reads.clear()
    monkeypatch.setattr(TorchSession, "__init__", chosen_by_torch)
    found = generator.generate(None, batch)
    assert len(reads) == max(int(text["passes"][-1]) for (text,) in found)
    assert [text["tokens"].tolist() for (text,) in found] == [text["tokens"].tolist() for (text,) in expected]


@pytest.mark.gpu
@pytest.mark.parametrize("decoding", ["semi-nar", "speculative"])
def test_the_host_waits_for_a_gpu_once_a_pass(decoding, golden_model, make_task, pairs, monkeypatch):
    """Every other wait inside a pass is an error; tables that are kept have been sent by a first run."""
    run, read = TorchSession.run, TorchSession.read

    def within(function, mode):
        def call(*args):
            before = torch.cuda.get_sync_debug_mode()
            torch.cuda.set_sync_debug_mode(mode)
            try:
                return function(*args)
            finally:
                torch.cuda.set_sync_debug_mode(before)

        return call

    (batch,) = pairs("test", 24)
    batch = utils.move_to_cuda(batch)
    generator = make_task(decoding=decoding).build_generator([golden_model("mixed").cuda()], options(max_len_b=20))
    expected = generator.generate(None, batch)
    monkeypatch.setattr(TorchSession, "run", within(run, "error"))
    monkeypatch.setattr(TorchSession, "read", within(read, "default"))
    found = generator.generate(None, batch)
    assert [text["tokens"].tolist() for (text,) in found] == [text["tokens"].tolist() for (text,) in expected]


def test_a_beam_is_refused_in_one_line_on_the_command_line(run, data_bin):
    command = ["fairseq-generate", data_bin, "--user-dir", ROOT / "bang", "--task", "translation_bang",
               "--decoding", "speculative", "--path", GOLDEN / "mixed" / "checkpoint.pt", "--beam", "4"]  # fmt: skip
    told = [line for line in run(*command, fails=True).splitlines() if not re.match(r"(DEBUG|INFO):|.* \| INFO \| ", line)]
    assert len(told) == 1 and told[0].startswith(
        "fairseq-generate: error: --beam 4 with --decoding speculative: it gives the words of --beam 1"
    )


def test_the_command_lines_report_is_json(data_bin, forked_commands):
    """fairseq's command line gives the mode as an enum, which JSON has no word for."""
    command = [data_bin, "--user-dir", ROOT / "bang", "--task", "translation_bang", "--decoding", "speculative", "--path",
               GOLDEN / "mixed" / "checkpoint.pt", "--beam", "1", "--batch-size", "36", "--max-len-b", "20"]  # fmt: skip
    words = ["-m", "fairseq_cli.generate", *map(str, command), "--log-format", "json"]
    done = forked_commands().run(*words, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert done.returncode == 0 and "Traceback" not in done.stderr, done.stderr[-3000:]
    (told,) = re.findall(r"bang\.generation\.statistics(?: \| |:)(.*)$", done.stdout + done.stderr, flags=re.M)
    found = json.loads(told)
    texts = hypotheses(done.stdout)
    assert found["decoding"] == "speculative" and found["texts"] == len(texts) == 24
    assert found["tokens"] == sum(len(text.split()) + 1 for _, text in texts.values())
    kept = {int(tokens): passes for tokens, passes in found["passes_by_tokens_kept"].items()}
    assert found["passes"] == sum(kept.values()) < found["tokens"] == sum(tokens * passes for tokens, passes in kept.items())
    assert found["tokens_a_pass"] == pytest.approx(found["tokens"] / found["passes"], abs=1e-3)


@pytest.mark.parametrize("log_format", [None, "json"])
def test_a_run_reports_its_passes(log_format, golden_model, make_task, pairs, caplog):
    gc.collect()  # generators of other tests, which would report here
    caplog.set_level(logging.INFO)
    caplog.clear()
    task = make_task(decoding="speculative", log_format=log_format)
    generator = task.build_generator([golden_model("mixed")], options())
    lengths = [len(row[0]["tokens"]) for batch in pairs("test", 7) for row in generator.generate(None, batch)]
    del generator  # the end of fairseq-generate's main()
    (told,) = [record.getMessage() for record in caplog.records if record.name.endswith("statistics")]
    if log_format is None:
        assert told.startswith(f"speculative: 24 texts, {sum(lengths)} tokens in ")
        return
    found = json.loads(told)
    kept = {int(tokens): passes for tokens, passes in found["passes_by_tokens_kept"].items()}
    assert found["texts"] == 24 and found["tokens"] == sum(lengths) and found["passes"] == sum(kept.values())
    assert sum(tokens * passes for tokens, passes in kept.items()) == found["tokens"] and max(kept) <= 5
    assert found["tokens_a_pass"] == pytest.approx(found["tokens"] / found["passes"], abs=1e-3)
