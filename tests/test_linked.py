"""A link at work in the decoding loop: NAR and semi-NAR write the best path, in torch and onnxruntime alike."""

import dataclasses
import logging
import pickle
import shutil

import numpy as np
import pytest
import torch
from conftest import GOLDEN, ROOT, TEXTS, VOCAB_SMALL, debian, hypotheses
from fairseq.dataclass.configs import GenerationConfig

from bang import visibility
from bang.decoding.candidates import Slots, likeliest
from bang.decoding.search import Rules, best_paths
from bang.decoding.source_pairs import SourcePairs
from bang.deploy.export import export
from bang.inference.api import Bang
from bang.inference.torch_engine import TorchEngine
from bang.inference.trained_model import read_model
from bang.options import Options

CHECKPOINT = GOLDEN / "mixed" / "checkpoint.pt"
OPTIONS = {
    "nar": dict(mode="nar"),
    "nar, several pieces": dict(mode="nar", max_len=70, min_len=40),
    "nar, longer": dict(mode="nar", eos_penalty=3.0, max_len=24),
    "nar, limits": dict(mode="nar", max_len=1, max_len_a=0.3),
    "nar, candidates": dict(mode="nar", rescore=4, len_penalty=0.8),
    "nar, candidates in several pieces": dict(mode="nar", rescore=3, max_len=60, min_len=20, eos_penalty=1.0),
    "semi-nar, two slots ahead": dict(mode="semi-nar", block_size=3),
    "semi-nar, longer": dict(mode="semi-nar", block_size=4, eos_penalty=3.0, min_len=9),
    "semi-nar, limits": dict(mode="semi-nar", max_len=1, max_len_a=0.3),
}


def slots_of(model, source, main, layout, link):
    """Candidates of teacher-forced slots: no cache, no loop of ours."""
    with torch.no_grad():
        logits = model(torch.from_numpy(source)[None], torch.tensor([len(source)]), main, layout=layout)[0]
    scores = torch.log_softmax(logits.float(), -1).numpy()
    pad, eos = model.decoder.dictionary.pad(), model.decoder.dictionary.eos()
    end = scores[..., eos].copy()
    scores[..., [pad, eos]] = -np.inf
    return Slots(*likeliest(scores, link.weights.candidates), end)


def naive(model, source, link, options, ahead=0):
    """The best path's tokens, from whole passes; and in NAR its score."""
    dictionary, longest = model.decoder.dictionary, options.max_len
    pad, unk, eos = dictionary.pad(), dictionary.unk(), dictionary.eos()
    rules = Rules(np.array([max(options.min_len, 1)]), np.array([longest]), pad, eos, unk, options.eos_penalty)
    text, block = [eos], longest + 1 if options.mode == "nar" else options.block_size
    while True:
        kept = np.array([text])
        if options.mode == "nar":
            main, layout = torch.full((1, block), pad), visibility.non_autoregressive(block)
        else:
            main, layout = torch.tensor([text]), visibility.Layout(1, block + ahead, len(text) - 1, 0, len(text))
        slots = slots_of(model, source, main, layout, link)
        slots = Slots(*(x[:, : longest + 2 - len(text)] for x in slots))
        paths = best_paths(link, SourcePairs(source[None], link.size, (pad, eos)), kept, np.array([len(text)]), rules, slots)
        text += paths.tokens[0, 0, : paths.length[0, 0]].tolist()[:block]
        if text[-1] == eos:
            return text[1:-1], paths.score[0, 0]


@pytest.mark.parametrize(
    "options",
    [
        dict(mode="nar", max_len=40),
        dict(mode="nar", max_len=60, min_len=35),
        dict(mode="nar", max_len=24, eos_penalty=2.0),
        dict(mode="semi-nar", max_len=30, block_size=3),
        dict(mode="semi-nar", max_len=20, block_size=5, min_len=8),
        dict(mode="semi-nar", max_len=9, block_size=4, min_len=8),
    ],
    ids=str,
)
def test_texts_are_the_best_paths(options, golden_model, linked, link, sources):
    model, options = golden_model("mixed"), Options(**options)
    ahead = {3: 2, 4: 1, 5: 0}[options.block_size]  # the engine's blocks were of 5
    expected = [naive(model, source, link, options, ahead) for source in sources[:12]]
    found = linked.generate(sources[:12], options)
    assert [text.tokens for text in found] == [tokens for tokens, _ in expected]
    if options.mode == "nar":
        assert [text.path_score for text in found] == pytest.approx([score for _, score in expected], abs=1e-3)
    without = linked.generate(sources[:12], dataclasses.replace(options, link=False))
    assert sum(a.tokens != b.tokens for a, b in zip(found, without)) > 6 and {text.path_score for text in without} == {None}
    for text in found:
        assert len(text.positional_scores) == len(text.passes) == len(text.tokens) + 1
        assert all(score <= 0 for score in text.positional_scores)


def test_scores_and_passes_are_the_networks(golden_model, linked, sources):
    """A NAR text of several pieces: log-probabilities of its slots, and the pass that ran each."""
    model, options = golden_model("mixed"), Options(mode="nar", max_len=60, min_len=20)
    text = linked.generate(sources[:1], options)[0]
    size = len(text.tokens) + 1
    with torch.no_grad():
        logits = model(
            torch.from_numpy(sources[0])[None],
            torch.tensor([len(sources[0])]),
            torch.zeros(1, size, dtype=torch.long),
            layout=visibility.non_autoregressive(size),
        )[0]
    scores = torch.log_softmax(logits[0], -1).gather(1, torch.tensor([*text.tokens, model.decoder.dictionary.eos()])[:, None])
    assert text.positional_scores == pytest.approx(scores[:, 0].tolist(), abs=1e-4)
    assert text.passes == [1] * 21 + [2] * (size - 21)


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_the_runtime_writes_the_plugins_texts(options, linked, linked_runtime, sources):
    options = Options(**{"max_len": 30, **options})
    expected, found = linked.generate(sources, options), linked_runtime.engine.generate(sources, options)
    for a, b in zip(expected, found, strict=True):
        assert b.tokens == a.tokens and b.passes == a.passes
        assert b.score == pytest.approx(a.score, abs=2e-5)
        assert b.positional_scores == pytest.approx(a.positional_scores, abs=1e-4)
        assert b.path_score == pytest.approx(a.path_score, abs=1e-3)


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_a_text_does_not_depend_on_its_batch(options, linked, linked_runtime, sources):
    options = Options(**{"max_len": 30, **options})
    many = [*sources, *sources[:12]]
    for engine in (linked, linked_runtime.engine):
        whole = [text.tokens for text in engine.generate(many, options)]
        assert whole[24:] == whole[:12]
        for rows in (1, 7):
            parts = (engine.generate(many[start : start + rows], options) for start in range(0, 24, rows))
            assert [text.tokens for part in parts for text in part][:24] == whole[:24]


@pytest.mark.parametrize("mode", ["nar", "semi-nar"])
def test_candidates_of_the_graph_serve_too(mode, exported, link_file, linked_runtime, sources):
    """As on a GPU, where the whole log-probabilities would have to be copied."""
    engine = Bang.load(exported, link=link_file, threads=1).engine
    engine.blocks = linked_runtime.engine.blocks
    engine._graphs = engine._graphs._replace(whole=False)
    options = Options(mode=mode, max_len=20)
    for a, b in zip(linked_runtime.engine.generate(sources, options), engine.generate(sources, options), strict=True):
        assert b.tokens == a.tokens and b.positional_scores == pytest.approx(a.positional_scores, abs=1e-4)


@pytest.mark.slow
def test_the_shipped_models_export_writes_its_texts(tmp_path):
    """float32; its link beside it goes into the export, and is the default in both."""
    model = read_model(ROOT / "models" / "debian-synopsis" / "checkpoint.pt")
    export(model, tmp_path / "exported")
    runtime, own = Bang.load(tmp_path / "exported", threads=1), Bang(TorchEngine(model, device="cpu"), model.dictionary.symbols)
    texts = debian("test.src")[:200]
    for mode in ("nar", "semi-nar"):
        options = dict(mode=mode, max_len=40, truncate=True, case="lower")  # the export alone has a table of forms
        found = own.generate(texts, **options)
        assert runtime.generate(texts, **options) == found
        assert sum(a != b for a, b in zip(found, own.generate(texts, **options, link=False))) > 100


def test_without_its_link_a_model_writes_as_ever(linked, plugin, linked_runtime, runtime, sources):
    for mode in ("ar", "semi-nar", "nar", "speculative"):
        options = Options(mode=mode, max_len=20, beam=1)
        left_out = dataclasses.replace(options, link=False)
        assert linked.generate(sources, left_out) == plugin.generate(sources, options)
        assert linked_runtime.engine.generate(sources, left_out) == runtime.engine.generate(sources, options)
    for options in (dict(mode="ar"), dict(mode="speculative"), dict(mode="semi-nar", commit_threshold=0.4), dict(block_size=1)):
        options = Options(**{"mode": "semi-nar", "beam": 1, "max_len": 20, **options})
        assert linked.generate(sources, options) == plugin.generate(sources, options)


def test_a_prefix_is_kept_and_scored(golden_model, make_task, link, sources):
    """fairseq's --prefix-size in semi-NAR: paths go on from the prefix."""
    model, task = golden_model("mixed"), make_task(decoding="semi-nar", block_size=3)
    task.link = link
    generator = task.build_generator([model], GenerationConfig(beam=1, max_len_b=20))
    task.link = None
    plain = task.build_generator([model], GenerationConfig(beam=1, max_len_b=20))
    dataset = task.build_dataset_for_inference([torch.from_numpy(s) for s in sources[:6]], [len(s) for s in sources[:6]])
    batch = dataset.collater([dataset[index] for index in range(6)])
    free = [found[0] for found in task.inference_step(generator, [model], batch)]
    prefix = torch.tensor([[*row["tokens"].tolist(), 0, 0, 0][:3] for row in free])
    prefix[1] = prefix[0]  # one that the model would not write
    prefix[2, 1:] = 0  # a shorter one
    prefix[3] = 0  # none
    with_prefix = [found[0] for found in task.inference_step(generator, [model], batch, prefix_tokens=prefix)]
    others = [found[0] for found in task.inference_step(plain, [model], batch, prefix_tokens=prefix)]
    for row, found in enumerate(with_prefix):
        size = int((prefix[row] != 0).sum())
        assert found["tokens"][:size].tolist() == prefix[row, :size].tolist()
        assert found["positional_scores"][:size].tolist() == pytest.approx(
            others[row]["positional_scores"][:size].tolist(), abs=1e-5
        )
        assert found["tokens"][-1] == task.target_dictionary.eos()
    assert with_prefix[3]["tokens"].tolist() == free[3]["tokens"].tolist()
    assert with_prefix[0]["tokens"].tolist() == free[0]["tokens"].tolist()  # 3 tokens are a block
    assert any(a["tokens"].tolist() != b["tokens"].tolist() for a, b in zip(with_prefix, others))


def test_fairseq_generate_and_bang_generate_write_the_same(data_bin, link_file, cli, trained, linked, sources):
    log = cli(
        "fairseq-generate", data_bin, "--task", "translation_bang", "--path", CHECKPOINT, "--gen-subset", "test",
        "--decoding", "nar", "--beam", 1, "--max-len-b", 20, "--batch-size", 5, "--cpu", "--link", link_file,
    )  # fmt: skip
    symbols = trained.dictionary.symbols
    expected = [
        " ".join(symbols[token] for token in text.tokens) for text in linked.generate(sources, Options(mode="nar", max_len=20))
    ]
    assert [text for _, (_, text) in sorted(hypotheses(log).items())] == expected


@pytest.mark.slow
def test_a_link_beside_a_checkpoint_and_in_folders(link_file, tmp_path):
    for name, path in (("checkpoint.pt", CHECKPOINT), ("link.bin", link_file)):
        shutil.copy(path, tmp_path / name)
    model = Bang.load(tmp_path / "checkpoint.pt", vocab=VOCAB_SMALL)
    without = Bang.load(tmp_path / "checkpoint.pt", vocab=VOCAB_SMALL, link="none")
    named = Bang.load(CHECKPOINT, vocab=VOCAB_SMALL, link=link_file)
    again, options = pickle.loads(pickle.dumps(named)), dict(mode="nar", max_len=20)
    texts = model.generate(TEXTS, **options)
    assert texts == named.generate(TEXTS, **options, link=True) == again.generate(TEXTS, **options)
    assert texts != without.generate(TEXTS, **options) == model.generate(TEXTS, **options, link=False)


@pytest.mark.parametrize(
    "options, message",
    [
        (dict(mode="ar"), "^mode ar has no link, which is of semi-nar, nar: leave it out, or give another mode$"),
        (dict(mode="speculative"), "^mode speculative has no link, .*$"),
        (dict(mode="semi-nar", commit_threshold=0.3), "^a link in mode semi-nar chooses whole blocks: leave out --commit-thr.*$"),
        (dict(mode="semi-nar", block_size=1), "^a link in mode semi-nar chooses whole blocks: .* --block-size 2 or more$"),
        (dict(mode="nar", link="link.bin"), "^link='link.bin': give True, False or None; a link's file is for Bang.load$"),
    ],
)
def test_a_link_that_is_asked_for_where_there_can_be_none(options, message, linked_runtime):
    with pytest.raises(ValueError, match=message):
        linked_runtime.generate(TEXTS, **{"link": True, **options})


def test_a_model_without_a_link(runtime):
    with pytest.raises(
        ValueError, match="^link=True: this model has no link; make one with bang link, and give it to Bang.load$"
    ):
        runtime.generate(TEXTS, "nar", link=True)


def test_refusals_of_the_task(make_task, golden_model, link_file, caplog):
    model = golden_model("mixed")
    with pytest.raises(ValueError, match="^--link with --decoding semi-nar: it chooses whole blocks; leave out"):
        make_task(decoding="semi-nar", commit_threshold=0.5, link=str(link_file)).build_generator([model], GenerationConfig())
    with caplog.at_level(logging.WARNING):
        make_task(decoding="ar", link=str(link_file)).build_generator([model], GenerationConfig())
    assert "--link has no effect with --decoding ar" in [record.getMessage() for record in caplog.records]
    assert make_task(decoding="nar", link="none").link is None


def test_files_that_are_no_link_of_the_model(link_file, link, exported, tmp_path):
    def refused(message, path, kind=ValueError):
        for model in (CHECKPOINT, exported):
            with pytest.raises(kind, match=message) as error:
                Bang.load(model, vocab=VOCAB_SMALL if model == CHECKPOINT else None, link=path)
            assert "\n" not in str(error.value)

    other, cut, foreign = (tmp_path / name for name in ("other", "cut", "foreign"))
    dataclasses.replace(link, vocabulary="0" * 64).save(other)
    refused("a link of another vocabulary", other)
    data = link_file.read_bytes()
    cut.write_bytes(data[:-100])
    refused("damaged or truncated", cut)
    foreign.write_bytes(data.replace(b"bang link 1 ", b"bang link 9 ", 1))
    refused("a link of format 9", foreign)
    refused("is no link; make one with bang link", VOCAB_SMALL)
    refused("No such file", tmp_path / "nowhere", FileNotFoundError)
