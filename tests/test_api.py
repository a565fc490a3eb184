"""`Bang`: raw text in, text out; the texts are those of the plugin's generators."""

import dataclasses
import inspect
import itertools
import signal
import sys
import typing
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from conftest import CHECKPOINT, GOLDEN, ROOT, SPECIAL, VOCAB_SMALL, hypotheses
from fairseq.dataclass.configs import GenerationConfig
from omegaconf import OmegaConf
from tqdm import tqdm

from bang import Bang
from bang.inference.api import Generation, _growing
from bang.inference.call_options import CallOptions
from bang.inference.engine import Hypothesis
from bang.inference.torch_engine import TorchEngine
from bang.inference.trained_model import read_checkpoint
from bang.modes import MODES
from bang.options import DESCRIBED, Options, OptionValues
from bang.trained_modes import split_shares


@pytest.mark.parametrize("log, options", [
    ("ar_beam1", dict(beam=1)), ("ar_beam4_lenpen1.2", dict(beam=4, len_penalty=1.2)), ("nar", dict(mode="nar")),
])  # fmt: skip
def test_engine_gives_what_the_reference_gave(log, options, model, dictionary):
    """Scores too; the reference's NAR canvas was the batch's padded source, so of NAR the shorter texts are compared."""
    lines = (GOLDEN / "data" / "tokenized_test.src").read_text().splitlines()
    sources = [np.array([dictionary.index(piece) for piece in line.split()] + [dictionary.eos()]) for line in lines]
    found = model.engine.generate(sources, Options(**options))
    expected = hypotheses((GOLDEN / "mixed" / f"generate_test_{log}.txt").read_text(), base=np.e)
    assert len(expected) == len(found) == 24
    for sentence, (score, text) in expected.items():
        tokens, ours = " ".join(dictionary[token] for token in found[sentence].tokens), found[sentence]
        if "nar" not in log:
            assert tokens == text and ours.score == pytest.approx(score, abs=2e-6)
        else:
            text = text.split(" [SEP]")[0] if not text.startswith("[SEP]") else tokens
            assert tokens.startswith(text)
        assert len(ours.positional_scores) == len(ours.passes) == len(ours.tokens) + 1


@pytest.mark.parametrize("mode", MODES)
def test_texts_are_those_of_the_plugin(mode, model, texts, make_task, golden_model, dictionary):
    """Each alone, through the task's own generator and --bpe bang."""
    network, task, texts = golden_model("mixed"), make_task(decoding=mode, block_size=3), [*texts, *SPECIAL]
    bpe = task.build_bpe(OmegaConf.create({"_name": "bang", "bpe_vocab_file": None}))
    generator = task.build_generator([network], GenerationConfig(beam=2 if mode == "ar" else 1))
    found = model.generate(texts, mode, block_size=3, beam=2 if mode == "ar" else 1, details=True)
    for text, ours in zip(texts, found):
        tokens = dictionary.encode_line(bpe.encode(text), add_if_not_exist=False).long()
        dataset = task.build_dataset_for_inference([tokens], [len(tokens)])
        ((best, *_),) = task.inference_step(generator, [network], dataset.collater([dataset[0]]))
        assert " ".join(ours.pieces) == dictionary.string(best["tokens"])
        assert ours.piece_scores == pytest.approx(best["positional_scores"].tolist(), abs=1e-5)
        assert ours.score == pytest.approx(float(best["score"]), abs=1e-5)


def test_text_for_people():
    class Engine:
        modes, shares, blocks, max_source_positions = ("ar", "nar"), None, None, 9

        def generate(self, sources, options):
            return [Hypothesis([104, 104, 105, 106], -1.0, [-1.0] * 5, [0, 1, 2, 3, 4])] * len(sources)

    pieces = [f"[unused{index}]" for index in range(100)] + ["[UNK]", "[CLS]", "[SEP]", "[MASK]", "c", "+", ".", "[PAD]", "a"]
    model = Bang(Engine(), pieces)
    assert model.generate("a", "ar") == "c c+."  # an autoregressive model means what it says twice
    assert model.generate("a", "nar") == "c+."
    assert model.generate("a", "nar", drop_repeats=False) == "c c+."
    assert model.generate("a", "nar", details=True).pieces == ["c", "c", "+", "."]


@pytest.mark.parametrize("mode", MODES)
def test_order_and_batches_change_nothing(mode, model, texts):
    expected = model.generate(texts, mode)
    assert len(set(expected)) > 15
    assert model.generate(texts[::-1], mode) == expected[::-1]
    assert model.generate(texts, mode, batch_tokens=1) == expected
    assert model.generate(texts, mode, batch_tokens=200, read_ahead=7) == expected
    assert [model.generate(text, mode) for text in texts[:5]] == expected[:5]


def test_iterator_in_iterator_out_a_few_texts_ahead(model, texts):
    taken = 0

    def forever():
        nonlocal taken
        for text in itertools.cycle(texts):
            taken += 1
            yield text

    found = model.generate(forever(), "nar", read_ahead=4)
    first = next(found)
    assert taken == 1  # the first answer waits for no other text
    assert [first, *itertools.islice(found, 9)] == model.generate(texts[:10], "nar") and taken == 13
    assert list(model.generate(iter([]))) == [] == model.generate([])


def test_windows_grow_to_the_most():
    assert list(itertools.islice(_growing(1024), 7)) == [1, 8, 64, 512, 1024, 1024, 1024]
    assert list(itertools.islice(_growing(1), 2)) == [1, 1]


class Series:
    """What a Series of pandas has: a length and its values in order; it is no Sequence."""

    ndim = 1

    def __init__(self, values):
        self.values = values

    def __len__(self):
        return len(self.values)

    def __iter__(self):
        return iter(self.values)


def test_what_has_a_length_gives_a_list(model, texts):
    expected = model.generate(texts[:3], "nar")
    assert type(expected) is list
    for given in (tuple(texts[:3]), np.array(texts[:3]), np.array(texts[:3], dtype=object), Series(texts[:3]),
                  dict.fromkeys(texts[:3]).keys(), tqdm(texts[:3], disable=True)):  # fmt: skip
        found = model.generate(given, "nar")
        assert type(found) is list and found == expected
    for given in (iter(texts[:3]), tqdm((text for text in texts[:3]), disable=True)):  # nobody knows how long
        found = model.generate(given, "nar")
        assert type(found) is not list and list(found) == expected
    frame = type("DataFrame", (Series,), {"ndim": 2})(["the name of a column"])  # what iterating over pandas' gives
    with pytest.raises(ValueError, match="^a DataFrame of 2 dimensions holds no texts in order: give a column of it$"):
        model.generate(frame)


LONG = "word " * 600


def test_a_text_that_cannot_be_served_may_be_left_blank(model, texts):
    given = [texts[0], LONG, None, "b\ud83d!", texts[1], ""]
    expected = [model.generate(texts[0], "nar"), "", "", "", model.generate(texts[1], "nar"), ""]
    assert model.generate(given, "nar", on_error="blank") == expected
    assert list(model.generate(iter(given), "nar", on_error="blank", read_ahead=2)) == expected
    found = model.generate(given, "nar", on_error="blank", details=True)
    assert [generation.error is None for generation in found] == [True, False, False, False, True, True]
    assert found[1].error.startswith("text 2 has ") and found[2].error.startswith("text 3 is no text but of type NoneType")
    assert model.generate(LONG, "nar", on_error="blank") == ""
    assert model.generate([LONG], "nar", on_error="blank", truncate=True)[0]

    def broken():
        yield texts[0]
        raise ValueError("the caller's own")

    found = model.generate(broken(), "nar", on_error="blank", read_ahead=5)
    assert next(found) == expected[0]
    with pytest.raises(ValueError, match="^the caller's own$"):
        next(found)


def test_an_error_loses_no_work(model, texts, monkeypatch):
    """A list is looked through before anything is generated; of an iterator all texts before it are answered."""
    found, answers = model.generate(iter([*texts[:12], LONG, *texts]), "nar"), []
    with pytest.raises(ValueError, match="^text 13 has "):
        answers.extend(found)
    assert answers == model.generate(texts[:12], "nar")
    monkeypatch.setattr(model.engine, "generate", lambda *_: pytest.fail("generated in vain"))
    with pytest.raises(ValueError, match="^text 31 has "):
        model.generate([*texts, LONG], "nar", read_ahead=4)


def test_pads_in_a_text_are_passed_over(model, texts):
    """In what it gives and in its length, which limits count."""
    for mode in MODES:
        options = dict(mode=mode, max_len=1, max_len_a=0.5, details=True)
        assert model.generate(["[PAD]" + texts[0] + " [PAD]" * 600, "[PAD]"], **options) == model.generate(
            [texts[0], ""], **options
        )


def test_empty_text_gives_empty_text(model, texts):
    found = model.generate(["", texts[0], "  \t\u200b", texts[1]], "nar")
    assert found == ["", model.generate(texts[0], "nar"), "", model.generate(texts[1], "nar")]
    assert model.generate("", details=True) == Generation("", [])


def test_several_threads_get_the_texts_of_one(model, texts):
    calls = [
        (mode, beam, part)
        for mode, beam in (("ar", 1), ("ar", 3), ("nar", 1), ("semi-nar", 1), ("speculative", 1))
        for part in (0, 10, 20)
    ]

    def call(arguments):
        mode, beam, part = arguments
        return model.generate(texts[part : part + 10], mode, beam=beam, batch_tokens=100)

    expected = [call(arguments) for arguments in calls]
    with ThreadPoolExecutor(6) as pool:
        for _ in range(2):
            assert list(pool.map(call, calls)) == expected


def test_passes_tell_who_wrote_what(model, texts):
    for mode, written in (("ar", lambda count: range(1, 1 + count)), ("nar", lambda count: [1] * count),
                          ("semi-nar", lambda count: [1 + index // 3 for index in range(count)])):  # fmt: skip
        for generation in model.generate(texts, mode, beam=1, block_size=3, max_len=25, details=True):
            assert generation.passes == list(written(len(generation.pieces) + 1))
    drafted, greedy = (model.generate(texts, mode, beam=1, details=True) for mode in ("speculative", "ar"))
    assert [generation.pieces for generation in drafted] == [generation.pieces for generation in greedy]
    assert all(ours.passes == sorted(ours.passes) and ours.passes[-1] <= ar.passes[-1] for ours, ar in zip(drafted, greedy))


def test_limits(model, texts):
    short = model.generate(texts, "nar", max_len=3, details=True)
    assert max(len(generation.pieces) for generation in short) == 3
    by_source = model.generate(texts, "ar", beam=1, max_len=0, max_len_a=0.3, min_len=50, details=True)
    lengths = [len(model.tokenizer.word_pieces(text).split()) + 1 for text in texts]
    assert [len(generation.pieces) for generation in by_source] == [min(50, int(0.3 * length)) for length in lengths]


def test_too_long_a_text(model, caplog):
    long = "word " * 600
    with pytest.raises(ValueError, match=r"^text 2 has over 511 word pieces, the model's limit: .*truncate=True"):
        model.generate(["fine", long])
    found = model.generate(["fine", long], "nar", truncate=True, details=True)
    assert [generation.truncated for generation in found] == [False, True]
    assert "1 texts cut to 511 word pieces, the first is text 2" in caplog.text
    pieces = model.tokenizer.word_pieces(long).split()[:511]
    assert found[1].text == model.generate(" ".join(pieces).replace(" ##", ""), "nar")


@pytest.mark.parametrize("texts, options, message", [
    (["a", b"b"], {}, "text 2 is no text but of type bytes"),
    (["a", None], {}, "text 2 is no text but of type NoneType"),
    (b"bytes", {}, "a bytes is no text"),
    (7, {}, "a int is no text"),
    (["a"], dict(mode="nat"), "mode 'nat': this model has ar, semi-nar, nar, speculative"),
    (["a"], dict(beams=4), "beams: no such option, maybe beam is meant; there are mode, beam, "),
    (["a"], dict(max_length=4), "max_length: no such option, maybe max_len is meant; "),
    (["a"], dict(num_beams=4), "num_beams: no such option, maybe beam is meant; "),
    (["a"], dict(truncation=True), "truncation: no such option, maybe truncate is meant; "),
    (["a"], dict(zzz=4), "zzz: no such option; there are mode, beam, "),
    (["a"], dict(on_error="skip"), "on_error='skip': give one of raise, blank"),
    ({"a": "b"}, {}, "a dict is no text: give a str or several"),
    (np.array([["a"], ["b"]]), {}, "a ndarray of 2 dimensions holds no texts in order"),
    (["a", "b\ud83d!"], {}, r"text 2 is no Unicode text: half a surrogate pair, '\\ud83d' at character 2"),
    (["a"], dict(mode=["nar"]), r"mode=\['nar'\]: give the name of a mode"),
    (["a"], dict(beam=0), "beam=0: give a whole number, 1 or more"),
    (["a"], dict(beam=2.5), "beam=2.5: give a whole number"),
    (["a"], dict(beam=700), "beam=700: the vocabulary of 1389 pieces holds one of 694 at most"),
    (["a"], dict(beam=10**12), "beam=1000000000000: give a whole number"),
    (["a"], dict(beam=4, mode="nar"), "beam=4: mode nar has no beam search, which is AR's"),
    (["a"], dict(beam=2, mode="semi-nar"), "beam=2: mode semi-nar has no beam search"),
    (["a"], dict(beam=2, mode="speculative"), "beam=2: mode speculative has no beam search"),
    (["a"], dict(block_size="4"), "block_size='4': give a whole number"),
    (["a"], dict(block_size=True), "block_size=True: give a whole number"),
    (["a"], dict(draft_length=2.0), "draft_length=2.0: give a whole number"),
    (["a"], dict(draft_length=None), "draft_length=None: give a whole number"),
    (["a"], dict(no_repeat_ngram_size=1.5), "no_repeat_ngram_size=1.5: give a whole number, 0 or more"),
    (["a"], dict(no_repeat_ngram_size=True), "no_repeat_ngram_size=True: give a whole number"),
    (["a"], dict(commit_threshold=1.5), "commit_threshold=1.5: give a number, from 0 to 1"),
    (["a"], dict(len_penalty="x"), "len_penalty='x': give a number, from -100 to 100"),
    (["a"], dict(len_penalty=None), "len_penalty=None: give a number"),
    (["a"], dict(max_len=float("nan")), "max_len=nan: give a whole number"),
    (["a"], dict(max_len=float("inf")), "max_len=inf: give a whole number"),
    (["a"], dict(max_len_a=float("nan")), "max_len_a=nan: give a number, 0 or more"),
    (["a"], dict(max_len_a=float("inf")), "max_len_a=inf: give a number, 0 or more"),
    (["a"], dict(batch_tokens="x"), "batch_tokens='x': give a whole number, 1 or more"),
    (["a"], dict(batch_tokens=None), "batch_tokens=None: give a whole number"),
    (["a"], dict(read_ahead=0.5), "read_ahead=0.5: give a whole number, 1 or more"),
    (["a"], dict(max_len=0), "every text would be empty"),
    (["a"], dict(batch_tokens=0), "batch_tokens=0"),
    (["a"], dict(min_len=9, max_len=5, mode="nar"),
     "min_len=9, max_len=5: no text is long enough; lower the one or raise the other"),
    (["a"], dict(nbest=2), "nbest=2 without details=True: the other texts are"),
    (["a"], dict(nbest=3, beam=2, details=True), "nbest=3, beam=2: a beam search has as many texts as its beam; raise it"),
    (["a"], dict(mode="nar", nbest=2, details=True), "nbest=2: mode nar has one text; several come of AR's beam"),
    (["a"], dict(nbest=0), "nbest=0: give a whole number, 1 or more"),
    (["a"], dict(mode="nar", sampling=True), "sampling=True: mode nar draws nothing; leave it out, or give one of ar, spec"),
    (["a"], dict(sampling=True, beam=2), "beam=2 with sampling=True: what is drawn has no beam; nbest gives several draws"),
    (["a"], dict(sampling=1), "sampling=1: give True or False"),
    (["a"], dict(sampling_topk=5), "sampling_topk=5: this acts in sampling only; give sampling=True"),
    (["a"], dict(temperature=0.5), "temperature=0.5: this acts in sampling only"),
    (["a"], dict(sampling=True, temperature=0), "temperature=0: give a number, 0.01 or more"),
    (["a"], dict(sampling=True, seed=-1), "seed=-1: give a whole number, 0 or more"),
    (["a"], dict(mode="nar", prefix="b"), "prefix: mode nar sees no token of its text; leave it out, or give one"),
    (["a", "b"], dict(prefix=["c"]), "1 prefixes for 2 texts: give one for each text, empty for none"),
    (["a"], dict(prefix=[7]), "the prefix of text 1 is no text but of type int"),
    (["a"], dict(prefix=["b\ud83d!"]), "the prefix of text 1 is no Unicode text: half a surrogate pair"),
    (["a"], dict(prefix=7), "a int is no text"),
    (["a"], dict(prefix="b [SEP]"), r"the prefix of text 1 has \[SEP\], which ends a text"),
    (["a"], dict(prefix="b b b", max_len=2), "the prefix of text 1 has 3 word pieces, over the limit of 2 of the text"),
])  # fmt: skip
def test_refusals(texts, options, message, model):
    with pytest.raises(ValueError, match=message) as refusal:
        model.generate(texts, **options)
    assert "\n" not in str(refusal.value)


def test_the_best_and_those_behind_it(model, texts):
    """As fairseq's --nbest; a text of none has none behind it."""
    found = model.generate([*texts[:4], ""], "ar", beam=4, nbest=3, details=True)
    assert [generation.text for generation in found] == model.generate([*texts[:4], ""], "ar", beam=4)
    assert [len(generation.others) for generation in found] == [2, 2, 2, 2, 0]
    for generation in found[:4]:
        ranked = [generation, *generation.others]
        assert len({tuple(one.pieces) for one in ranked}) == 3
        assert [one.score for one in ranked] == sorted((one.score for one in ranked), reverse=True)


def test_a_model_that_draws_by_default(model, texts):
    """Its modes that cannot draw still generate, unless they are asked to draw."""
    drawing = Bang(model.engine, model.pieces, Options(mode="ar", sampling=True, temperature=0.8, nbest=2))
    assert drawing.generate(texts[:2], "nar") == model.generate(texts[:2], "nar")
    drawn = model.generate(texts[:2], "ar", sampling=True, temperature=0.8, nbest=2, details=True)
    assert drawing.generate(texts[:2]) == [one.text for one in drawn]
    with pytest.raises(ValueError, match="sampling=True: mode nar draws nothing"):
        drawing.generate(texts[:2], "nar", sampling=True)


@pytest.mark.parametrize("mode", ["ar", "speculative"])
def test_a_draw_follows_from_its_seed_and_source(mode, model, texts):
    options = dict(mode=mode, sampling=True, max_len=8)
    expected = model.generate(texts[:6], seed=3, **options)
    assert model.generate(texts[5::-1], seed=3, **options) == expected[::-1]
    assert model.generate(iter(texts[:6]), seed=3, batch_tokens=1, **options).__next__() == expected[0]
    assert model.generate(texts[:6], seed=4, **options) != expected
    (several,) = model.generate(texts[:1], seed=3, nbest=4, details=True, **options)
    drawn = [several, *several.others]
    assert len({one.text for one in drawn}) == 4 and expected[0] in [one.text for one in drawn]
    assert model.generate(texts[:6], sampling_topk=1, **options) == model.generate(texts[:6], "ar", beam=1, max_len=8)


def test_a_beginning_for_all_texts_or_one_for_each(model, texts):
    for mode, beam in (("ar", 3), ("ar", 1), ("semi-nar", 1), ("speculative", 1)):
        free = model.generate(texts[:3], mode, beam=beam, details=True)
        found = model.generate(texts[:3], mode, beam=beam, prefix="a library", details=True)
        assert all(one.text.startswith("a library") for one in found)
        mixed = model.generate(iter(texts[:3]), mode, beam=beam, prefix=iter(["", "a library", ""]), details=True)
        assert [one.pieces for one in mixed] == [free[0].pieces, found[1].pieces, free[2].pieces]
    with pytest.raises(ValueError, match="text 2 has no prefix: give one for each text, empty for none"):
        list(model.generate(iter(texts[:2]), "ar", beam=1, prefix=iter(["a"])))
    assert model.generate("", "ar", prefix="a library") == ""


@pytest.mark.parametrize("engine", ["plugin", "runtime"])
def test_given_tokens_may_repeat(engine, request, pieces, texts):
    """n-gram blocking leaves them alone, in a search and in the loop."""
    engine = request.getfixturevalue(engine)
    model = Bang(engine if engine.__class__ is TorchEngine else engine.engine, pieces)
    for mode, beam in (("ar", 2), ("ar", 1), ("speculative", 1)):
        options = dict(mode=mode, beam=beam, prefix="tool tool", no_repeat_ngram_size=1, max_len=6, details=True)
        found = model.generate(texts[0], **options)
        assert found.pieces[:2] == ["tool", "tool"] and np.isfinite(found.piece_scores).all()
        assert len(set(found.pieces)) == len(found.pieces) - 1


@pytest.mark.parametrize("mode", MODES)
def test_a_text_is_streamed_as_passes_commit_it(mode, model, texts):
    for text in (texts[1], ""):
        expected = model.generate(text, mode, beam=1, block_size=3, details=True)
        found = list(model.stream(text, mode, block_size=3, details=True))
        assert (found[-1].pieces, found[-1].text, found[-1].passes) == (expected.pieces, expected.text, expected.passes)
        assert found[-1].piece_scores == pytest.approx(expected.piece_scores, abs=1e-5)
        assert [one.text for one in found] == list(model.stream(text, mode, block_size=3))
    streamed = list(model.stream(texts[1], mode, block_size=3, max_len=9, details=True))
    assert [one.passes[-1] for one in streamed] == list(range(1, 1 + len(streamed)))
    count = len(streamed[-1].pieces) + 1
    assert len(streamed) == {"ar": count, "semi-nar": -(-count // 3), "nar": 1}.get(mode, len(streamed))


def test_others_may_generate_while_a_text_is_streamed(model, texts):
    stream = model.stream(texts[0], "ar", prefix="a library")
    first = next(stream)
    expected = model.generate(texts[:2], "ar")
    assert [first, *stream][-1] == model.generate(texts[0], "ar", beam=1, prefix="a library") and len(expected) == 2
    for call, message in (
        (lambda: model.stream(texts[0], "ar", beam=4), "beam=4: a beam search has no text before its end"),
        (lambda: model.stream([texts[0]]), "a list is no text: stream takes one str"),
        (lambda: model.stream("tool " * 600), "text 1 has over 511 word pieces"),
        (lambda: model.stream(texts[0], "nar", prefix="a"), "prefix: mode nar sees no token"),
        (lambda: model.stream(texts[0], "ar", sampling=True, nbest=2), "nbest=2: one text is streamed"),
    ):  # before the first pass
        with pytest.raises(ValueError, match=message):
            call()


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("engine", ["plugin", "runtime"])
def test_ctrl_c_leaves_the_model_usable(engine, mode, request, pieces, texts, monkeypatch):
    """As in a notebook, where the kernel's interrupt comes in the middle of a pass."""
    engine = request.getfixturevalue(engine)
    model = Bang(engine if engine.__class__ is TorchEngine else engine.engine, pieces)
    expected = model.generate(texts[:3], mode, max_len=8)
    from bang.inference.onnx_session import OnnxSession
    from bang.network.decoder import BangDecoder

    for kind, name in ((OnnxSession, "_write"), (BangDecoder, "output_layer")):
        whole = getattr(kind, name)

        def interrupted(*args, whole=whole, **options):
            signal.raise_signal(signal.SIGINT)
            return whole(*args, **options)

        monkeypatch.setattr(kind, name, interrupted)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for call in (lambda: model.generate(texts[:3], mode), lambda: list(model.stream(texts[0], mode))):
        with pytest.raises(KeyboardInterrupt):
            call()
    monkeypatch.undo()
    assert model.generate(texts[:3], mode, max_len=8) == expected


def test_progress_is_shown_where_it_is_asked_for(model, texts, capsys):
    expected = model.generate([*texts[:3], ""], "nar")
    assert capsys.readouterr().err == ""
    assert model.generate([*texts[:3], ""], "nar", progress=True) == expected
    assert "4/4" in capsys.readouterr().err
    assert list(model.generate(iter(texts[:3]), "nar", progress=True)) == expected[:3]
    assert "3 texts [" in capsys.readouterr().err


def test_it_says_what_it_is(model, runtime):
    told = "modes ar, semi-nar, nar, speculative, ar by default, 1389 word pieces>"
    assert repr(model) == f"<Bang {str(CHECKPOINT)!r}, {told}"
    assert repr(Bang(model.engine, model.pieces)) == f"<Bang {told}" and repr(runtime).startswith("<Bang '/")


def test_the_typed_options_are_the_described_ones():
    """Editors complete what `Options` takes; the mode is an argument of its own."""
    types = {name: field.type for name, field in DESCRIBED.items() if name != "mode"}
    assert typing.get_type_hints(OptionValues) == types
    parameters = inspect.signature(Bang.generate).parameters.keys() - {"self", "texts", "mode", "details", "options"}
    assert typing.get_type_hints(CallOptions).keys() == types.keys() | parameters


@pytest.fixture
def mypy():
    """It raises Python's limit of recursion, which other tests meet."""
    limit = sys.getrecursionlimit()
    yield pytest.importorskip("mypy.api")
    sys.setrecursionlimit(limit)


def test_types_of_answers(mypy, tmp_path):
    """What a type checker says of the answers of an installed package."""
    (tmp_path / "use.py").write_text(
        "from bang import Bang, Generation\n"
        "def use(model: Bang) -> None:\n"
        "    one: str = model.generate('a')\n"
        "    several: list[Generation] = model.generate(['a'], details=True, beam=2, prefix=['b'])\n"
        "    for text in model.generate(iter(['a']), 'nar'):\n"
        "        text.upper()\n"
        "    last: str = [*model.stream('a')][-1]\n"
        "    model.generate('a', beam='4')\n"
        "    model.generate('a', details=True).upper()\n"
    )
    out, err, _ = mypy.run(
        ["--config-file", str(ROOT / "pyproject.toml"), "--follow-imports", "silent", str(tmp_path / "use.py")]
    )
    told = [line.split(": ")[0].rpartition(":")[2] for line in out.splitlines() if ": error: " in line]
    assert told == ["8", "9"], out + err


def test_the_largest_numbers_serve(model, texts):
    """A limit is a limit: the model's own are smaller."""
    expected = model.generate(texts[:2], "semi-nar", block_size=511, max_len=511)
    assert model.generate(texts[:2], "semi-nar", block_size=10**9, max_len=np.int64(10**9)) == expected
    expected = model.generate(texts[:2], "speculative", max_len_a=1, max_len=0)
    assert model.generate(texts[:2], "speculative", max_len_a=1, max_len=0, draft_length=10**9) == expected
    assert model.generate("a", beam=600, max_len=1)


def test_untrained_modes_are_told_once(texts, caplog):
    model = Bang.load(CHECKPOINT, vocab=VOCAB_SMALL)
    for mode in ("ar", "nar", "semi-nar", "semi-nar"):
        model.generate(texts[:1], mode)
    (warning,) = [record.getMessage() for record in caplog.records if record.name == "bang.inference.api"]
    assert warning.startswith("mode semi-nar: this model was not trained for it (ar 50%, nar 50%)")


@pytest.mark.parametrize("options, warning", [
    (dict(mode="semi-nar"), None),
    (dict(mode="semi-nar", block_size=5),
     "--block-size 5: this checkpoint was trained with blocks of 4 tokens, expect little of a block of 5"),
    (dict(mode="semi-nar", commit_threshold=0.5),
     "mode semi-nar drafts from any token, and this checkpoint's blocks were not trained to hang on any token"),
    (dict(mode="speculative"),
     "mode speculative drafts from any token, and this checkpoint's blocks were not trained to hang on any token"),
    (dict(mode="nar", block_size=5), None),
])  # fmt: skip
def test_blocks_that_were_not_trained_are_told_once(options, warning, texts, caplog):
    criterion = {"_name": "ngram_language_loss_NAR_mixed", "nar_ratio": 0.3, "semi_nar_ratio": 0.3, "block_size": 4}
    trained = dataclasses.replace(read_checkpoint(CHECKPOINT, VOCAB_SMALL), criterion=criterion)
    model = Bang(TorchEngine(trained, device="cpu"), trained.dictionary.symbols)
    for _ in range(2):
        model.generate(texts[:1], max_len=3, **options)
    told = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert len(told) == (warning is not None) and all(message.startswith(warning) for message in told)


@pytest.mark.parametrize(
    "shares", [{"nar": 0.4, "semi-nar": 0.2, "ar": 1 - 0.4 - 0.2}, split_shares({"nar_ratio": 0.4, "semi_nar_ratio": 0.2})]
)
def test_default_mode_is_the_best_trained(shares):
    """Also of a folder that stores the share with its rounding error."""
    engine = type("Engine", (), {"modes": MODES, "shares": shares, "max_source_positions": 9})
    pieces = (ROOT / "vocab.txt").read_text(encoding="utf-8").splitlines()
    assert Bang(engine, [line.rsplit(" ", 1)[0] for line in pieces]).defaults.mode == "ar"


def test_bf16(texts):
    model = Bang.load(CHECKPOINT, vocab=VOCAB_SMALL, dtype="bfloat16", device="cpu")
    assert next(model.engine._network.parameters()).dtype == torch.bfloat16
    for mode in MODES:
        assert all(model.generate(texts, mode, max_len=20))


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_gpu(dtype, model, texts):
    found = Bang.load(CHECKPOINT, vocab=VOCAB_SMALL, device="cuda", dtype=dtype)
    for mode in MODES:
        ours = found.generate(texts, mode)
        assert all(ours) and (dtype != "float32" or ours == model.generate(texts, mode))
