"""The exported graphs and the runtime without torch, against the plugin."""

import contextlib
import dataclasses
import io
import json
import re
import resource
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import onnx
import pytest
import torch
from bang import visibility
from bang.__main__ import main
from bang.deploy import export
from bang.deploy.graph import DecoderGraph, EncoderGraph
from bang.inference import cpu, onnx_engine, trained_model
from bang.inference.api import Bang, Options
from bang.inference.onnx_session import Candidates, OnnxSession, columns
from bang.inference.torch_engine import TorchEngine
from bang.inference.trained_model import read_checkpoint
from conftest import GOLDEN, ROOT, VOCAB_SMALL
from hypothesis import HealthCheck, given, settings, strategies
from test_api import SPECIAL

TEXTS = (ROOT / "examples" / "debian" / "test.src").read_text(encoding="utf-8").splitlines()[:12]


@pytest.fixture(scope="session")
def trained():
    return read_checkpoint(GOLDEN / "mixed" / "checkpoint.pt", VOCAB_SMALL)


@pytest.fixture(scope="session")
def command(tmp_path_factory):
    """The folder of `bang export`, float32, and what the command said."""
    folder = tmp_path_factory.mktemp("export")
    (folder / "texts").write_text("\n".join(TEXTS[:3]) + "\n", encoding="utf-8")
    checkpoint, new = GOLDEN / "mixed" / "checkpoint.pt", folder / "new"
    arguments = ["export", checkpoint, new, "--vocab", VOCAB_SMALL, "--check", folder / "texts"]
    with contextlib.redirect_stderr(io.StringIO()) as said:
        main(list(map(str, arguments)))
    return new, said.getvalue()


@pytest.fixture(scope="session")
def exported(command):
    return command[0]


@pytest.fixture(scope="session")
def plugin(trained):
    return TorchEngine(trained, device="cpu")


@pytest.fixture(scope="session")
def runtime(exported):
    return Bang.load(exported, threads=1)


@pytest.fixture(scope="session")
def sources(trained):
    """The golden test sources, as ids, in the order of the file."""
    ids = {piece: index for index, piece in enumerate(trained.dictionary.symbols)}
    lines = (GOLDEN / "data" / "tokenized_test.src").read_text(encoding="utf-8").splitlines()
    unk, eos = trained.dictionary.unk(), trained.dictionary.eos()
    return [np.array([ids.get(piece, unk) for piece in line.split()] + [eos]) for line in lines]


LAYOUTS = {
    "ar": visibility.autoregressive(6),
    "semi-nar": visibility.semi_autoregressive(6, 4),
    "nar": visibility.non_autoregressive(6),
    "streams": visibility.streams(6, 3),
}


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
@pytest.mark.parametrize("name", ["mixed", "nar"])
def test_the_graphs_give_the_models_numbers(name, layout, golden_model, forward_arrays):
    arrays, model = forward_arrays[name], golden_model(name)
    source, lengths = arrays["src_tokens"], arrays["src_lengths"]
    tokens = arrays["prev_output_tokens"][:, :6]
    decoder = model.decoder
    with torch.no_grad():
        encoder_out = model.encoder(source, src_lengths=lengths)
        expected = decoder(tokens, encoder_out, layout=layout)[0].log_softmax(2)
        # all that the graph knows of a mode comes by the rule
        block, index = visibility.places((layout.block_size,) * layout.groups)
        main = layout.main_length
        number = np.arange(main)
        position = np.concatenate([visibility.main_position(number), visibility.slot_position(layout.target.ravel())])
        last = np.concatenate([number, layout.anchor[block]])
        none = np.full(main, -1)
        sees, bucket = visibility.of_pass(
            np, position[None], last[None], visibility.main_position(number), number, np.concatenate([none, block]),
            np.concatenate([none, index]), main, visibility.bucket_table(),
        )  # fmt: skip
        rows = len(source)
        position, sees, bucket = (torch.from_numpy(x).expand(rows, *x.shape[1:]) for x in (position[None], sees, bucket))
        keys_values = EncoderGraph(model)(source)
        found, specials, *_ = DecoderGraph(model, [0, 1, 2])(
            tokens[:, :main], position[:, :main], position[:, main:], sees, bucket, source != 0,
            [keys_values[0][:, :, :0]] * len(keys_values), keys_values,
        )  # fmt: skip
    torch.testing.assert_close(found, expected, atol=2e-5, rtol=0)
    assert torch.equal(specials, found[:, :, :3])


MODES = {
    "ar": dict(mode="ar", beam=1),
    "ar, n-grams": dict(mode="ar", beam=1, no_repeat_ngram_size=2, min_len=5),
    "beam": dict(mode="ar", beam=4, len_penalty=1.2),
    "beam, n-grams": dict(mode="ar", beam=5, no_repeat_ngram_size=3, min_len=6, max_len=40),
    "beam, limits": dict(mode="ar", beam=3, max_len=2, max_len_a=0.2),
    "semi-nar": dict(mode="semi-nar", block_size=3),
    "the dial": dict(mode="semi-nar", block_size=4, commit_threshold=0.4),
    "the dial, without the source": dict(mode="semi-nar", block_size=4, commit_threshold=0.4, draft_from_source=0.0),
    "semi-nar, longer": dict(mode="semi-nar", block_size=3, eos_penalty=2.0),
    "semi-nar, limits": dict(mode="semi-nar", max_len=1, max_len_a=0.3),
    "nar": dict(mode="nar"),
    "nar, several pieces": dict(mode="nar", max_len=70, min_len=40),
    "nar, longer": dict(mode="nar", eos_penalty=1.5, max_len=24),
    "nar, limits": dict(mode="nar", max_len=1, max_len_a=0.3),
    "speculative": dict(mode="speculative", draft_length=3),
    "speculative, source left out": dict(mode="speculative", draft_from_source=0),
    "speculative, n-grams": dict(mode="speculative", no_repeat_ngram_size=2, min_len=5),
}


@pytest.mark.parametrize("options", MODES.values(), ids=MODES)
def test_the_runtime_gives_the_plugins_tokens_and_scores(options, plugin, runtime, sources):
    options = Options(**{"max_len": 30, **options})
    batch = sources[:20]
    expected, found = plugin.generate(batch, options), runtime.engine.generate(batch, options)
    for a, b in zip(expected, found, strict=True):
        assert b.tokens == a.tokens
        assert b.score == pytest.approx(a.score, abs=2e-5)
        assert b.positional_scores == pytest.approx(a.positional_scores, abs=1e-4)
        assert b.passes == a.passes


@pytest.mark.parametrize("options", MODES.values(), ids=MODES)
def test_the_runtime_writes_the_plugins_texts(options, plugin, runtime):
    """From raw text, special pieces in it and all."""
    texts = ["", *TEXTS[:3], *SPECIAL, "[PAD]"]
    found = [model.generate(texts, **{"max_len": 30, **options}) for model in (Bang(plugin, runtime.pieces), runtime)]
    assert found[0] == found[1] and [text for text, ours in zip(texts, found[1]) if not ours] == ["", "[PAD]"]


@pytest.mark.parametrize("mode", ["ar", "semi-nar", "nar", "speculative"])
@pytest.mark.parametrize("otherwise", [{"at_once": 24}, {"at_once": 1}, {"whole": False}], ids=str)
def test_what_only_saves_time_changes_no_token(mode, otherwise, exported, runtime, sources):
    options, engine = Options(mode=mode, beam=1, max_len=20), Bang.load(exported, threads=1).engine
    engine._graphs = engine._graphs._replace(**otherwise)
    batch = sources[:20]
    for a, b in zip(runtime.engine.generate(batch, options), engine.generate(batch, options), strict=True):
        assert b.tokens == a.tokens and b.positional_scores == pytest.approx(a.positional_scores, abs=1e-4)


def test_a_text_does_not_depend_on_its_batch(runtime, sources):
    for mode in runtime.modes:
        options = Options(mode=mode, beam=2, max_len=20)
        alone = [runtime.engine.generate([source], options)[0].tokens for source in sources[:6]]
        assert [found.tokens for found in runtime.engine.generate(sources[:6], options)] == alone


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(strategies.data())
def test_any_batch_and_length(runtime, trained, data):
    rows = data.draw(strategies.integers(1, 64))
    longest = data.draw(strategies.integers(1, 512 if rows < 9 else 60))
    mode, beam = data.draw(strategies.sampled_from([*((mode, 1) for mode in runtime.modes), ("ar", 3)]))
    rng = np.random.default_rng(rows)
    eos = trained.dictionary.eos()
    lengths = [longest, *rng.integers(1, longest + 1, rows - 1)]
    batch = [np.append(rng.integers(200, len(runtime.pieces), length - 1), eos) for length in lengths]
    found = runtime.engine.generate(batch, Options(mode=mode, beam=beam, max_len=6))
    assert len(found) == rows
    assert all(len(one.tokens) <= 6 and np.isfinite(one.positional_scores).all() for one in found)


@pytest.mark.parametrize("mode, beam", [("nar", 1), ("semi-nar", 1), ("speculative", 1), ("ar", 1), ("ar", 2)])
@pytest.mark.parametrize("rows, longest", [(1, 1), (1, 512), (64, 1), (64, 512)])
def test_the_smallest_and_the_largest_batch(rows, longest, mode, beam, runtime, quantized, trained):
    batch = [np.append(np.arange(200, 199 + longest), trained.dictionary.eos())] * rows
    for model in (runtime, Bang.load(quantized[0], threads=1)):
        found = model.engine.generate(batch, Options(mode=mode, beam=beam, max_len=4))
        assert len(found) == rows and len({tuple(one.tokens) for one in found}) == 1


@pytest.mark.parametrize("mode", ["nar", "semi-nar"])
def test_the_longest_texts(mode, plugin, runtime, sources):
    options = Options(mode=mode, max_len=600, min_len=600, block_size=64)
    expected, found = plugin.generate(sources[:1], options), runtime.engine.generate(sources[:1], options)
    assert found[0].tokens == expected[0].tokens and len(found[0].tokens) == 511


@pytest.mark.parametrize("options", MODES.values(), ids=MODES)
def test_rows_that_take_turns(options, runtime, sources, monkeypatch):
    """Where the log-probabilities of all rows would not fit."""
    sizes, options = [], Options(**{"max_len": 30, **options})
    expected = runtime.engine.generate(sources[:10], options)
    monkeypatch.setattr(onnx_engine, "_LOG_PROBS", 60 * runtime.engine.pieces)
    monkeypatch.setattr(onnx_engine, "OnnxSession", lambda graphs, rows, *of: sizes.append(len(rows)) or OnnxSession(graphs, rows, *of))
    found = runtime.engine.generate(sources[:10], options)
    assert [one.tokens for one in found] == [one.tokens for one in expected]
    slots = {"nar": 30, "semi-nar": options.block_size, "speculative": 2 * options.draft_length, "ar": options.beam}[options.mode]
    assert sum(sizes) == 10 and max(sizes) * min(slots, 60) <= 60


def test_candidates_of_a_slot():
    found = Candidates(np.full((1, 1, 3), -1.0, np.float32), np.array([[[7, 2, 9]]]), np.array([[[-0.5, -1, -2]]], np.float32))
    tokens, log_probs = columns(found, (0, 1, 2))
    assert tokens.tolist() == [[[0, 1, 2, 7, 2, 9]]]
    assert log_probs.tolist() == [[[-1, -1, -1, -0.5, -np.inf, -2]]]


@pytest.mark.parametrize("precision", ["float32", "int8"])
def test_threads_give_the_texts_of_one(precision, runtime, quantized):
    model = runtime if precision == "float32" else Bang.load(quantized[0], threads=1)
    calls = [(text, mode, beam) for mode, beam in (*((mode, 1) for mode in model.modes), ("ar", 3)) for text in TEXTS[:6]]

    def call(arguments):
        text, mode, beam = arguments
        return model.generate(text, mode, beam=beam, max_len=16)

    expected = list(map(call, calls))
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(call, calls)) == expected


WITHOUT = """
import sys
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("torch", "fairseq", "onnx", "transformers", "omegaconf"):
            raise ImportError(f"{name} is not installed here")
sys.meta_path.insert(0, Blocked())
from bang import Bang
model = Bang.load(sys.argv[1])
for mode in model.modes:
    print(mode, *model.generate(sys.argv[2:], mode, max_len=16), sep="\\t")
"""


def test_the_runtime_needs_neither_torch_nor_fairseq(exported, runtime):
    texts = TEXTS[:2]
    done = subprocess.run([sys.executable, "-c", WITHOUT, exported, *texts], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    expected = [[mode, *runtime.generate(texts, mode, max_len=16)] for mode in runtime.modes]
    assert [line.split("\t") for line in done.stdout.splitlines()] == expected


FIRST_TEXT = 1.5
"""Seconds from the start of the command to its first text."""


@pytest.mark.slow
def test_an_environment_without_torch(exported, runtime, tmp_path):
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "venv"], check=True)
    python = tmp_path / "venv" / "bin" / "python"
    packages = ["onnxruntime", "tokenizers", "numpy", "tqdm", "-c", ROOT / "requirements.txt"]
    subprocess.run([python, "-m", "pip", "install", "-q", *packages], check=True)
    assert subprocess.run([python, "-c", "import torch"], capture_output=True).returncode

    def generate(texts):
        """What the command writes, and its CPU time: the clock would count what else runs here."""
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        done = subprocess.run(
            [python, "-m", "bang", "generate", exported, "--mode", "nar", "--max-len", "16", "--threads", "1"],
            input="\n".join(texts), capture_output=True, text=True, cwd=ROOT, env={"PATH": "/usr/bin"},
        )  # fmt: skip
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        assert done.returncode == 0, done.stderr
        return done.stdout.splitlines(), after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    assert generate(TEXTS)[0] == runtime.generate(TEXTS, "nar", max_len=16)
    assert min(generate(TEXTS[:1])[1] for _ in range(3)) < FIRST_TEXT


@pytest.fixture(scope="session")
def quantized(exported, trained, tmp_path_factory):
    """The same graphs in int8, of the full 8 bits and of 7."""
    folders = []
    for reduce_range in (False, True):
        folder = tmp_path_factory.mktemp("export") / "int8"
        shutil.copytree(exported, folder)
        for name in (export.ENCODER, export.DECODER):
            export.quantize(folder / name, reduce_range)
        folders.append(folder)
    return folders


def test_int8_is_a_quarter_and_near(exported, quantized, runtime, sources):
    full, reduced = quantized
    weights = [sum(path.stat().st_size for path in folder.glob("*.weights")) for folder in (exported, full)]
    assert weights[1] < 0.3 * weights[0]
    for folder, most in ((full, 127), (reduced, 64)):
        arrays = [
            onnx.numpy_helper.to_array(tensor, str(folder))
            for name in (export.ENCODER, export.DECODER)
            for tensor in onnx.load(folder / name, load_external_data=False).graph.initializer
            if tensor.data_type == onnx.TensorProto.INT8 and len(tensor.dims) == 2 and "embed_" not in tensor.name
        ]
        assert len(arrays) > 10 and max(abs(x.astype(int)).max() for x in arrays) == most
        int8 = Bang.load(folder, threads=1)
        options = Options(mode="ar", beam=1, max_len=8, min_len=8)
        scores = [
            np.array([found.score for found in model.engine.generate(sources[:20], options)]) for model in (runtime, int8)
        ]
        assert abs(scores[0] - scores[1]).mean() < 0.2


def test_products_keep_a_scale_for_each_output(exported, quantized):
    """Every product with weights is one of int8, the output layer's, by far the largest, among them."""
    found = set()
    for name in (export.ENCODER, export.DECODER):
        whole, graph = (onnx.load(folder / name).graph for folder in (exported, quantized[0]))
        dims, scales = ({tensor.name: list(tensor.dims) for tensor in x.initializer} for x in (whole, graph))
        weights = [node.input[1] for node in whole.node if node.op_type in ("MatMul", "Gemm") and node.input[1] in dims]
        products = {node.input[1] for node in graph.node if node.op_type == "MatMulInteger"}
        assert len(weights) > 15 and products == {f"{weight}_quantized" for weight in weights}
        assert all(scales[f"{weight}_scale"] == dims[weight][1:] and scales[f"{weight}_quantized"] == dims[weight] for weight in weights)
        found |= products
    assert "output_quantized" in found


def test_embeddings_keep_a_scale_for_each_row(exported, quantized):
    for name in (export.ENCODER, export.DECODER):
        whole, rows = (
            {tensor.name: onnx.numpy_helper.to_array(tensor, str(folder))
             for tensor in onnx.load(folder / name, load_external_data=False).graph.initializer if "embed_" in tensor.name}
            for folder in (exported, quantized[0])
        )  # fmt: skip
        assert len(whole) == 2 and rows.keys() == whole.keys() | {f"{table}.scale" for table in whole}
        for table, x in whole.items():
            assert rows[table].dtype == np.int8
            restored = rows[table] * rows[f"{table}.scale"]
            assert (abs(restored - x).max(1) <= abs(x).max(1) / 250).all()


@pytest.mark.slow
def test_float16(trained, runtime, tmp_path):
    export.export(trained, tmp_path / "half", "float16")
    half = Bang.load(tmp_path / "half", dtype="float16")
    for mode in runtime.modes:
        expected = runtime.generate(TEXTS, mode, beam=1, max_len=12)
        found = half.generate(TEXTS, mode, beam=1, max_len=12)
        assert sum(a == b for a, b in zip(expected, found)) >= 10


def test_the_command(command, trained, runtime):
    folder, said = command
    assert said.splitlines()[-4:] == [f"{mode}: 3 of 3 texts as the model's" for mode in runtime.modes]
    assert runtime.modes == trained.build().decodes and runtime.engine.shares == trained.shares
    assert runtime.engine.blocks == trained.blocks == (1, 1)
    assert oct(folder.joinpath("decoder.weights").stat().st_mode) == oct(folder.joinpath("config.json").stat().st_mode)


def test_the_check_generates_with_the_same_defaults(trained, exported, tmp_path):
    """A packed model's: both sides keep to them, and texts are cut where they ask for more than the check takes."""
    generation = dict(block_size=2, no_repeat_ngram_size=1, draft_length=2, min_len=80, max_len=90, max_len_a=2.0, mode="nar")
    folder = shutil.copytree(exported, tmp_path / "packed")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "generation": generation}))
    model = dataclasses.replace(trained, generation=generation)
    assert export.compare(model, folder, TEXTS[:4]) == dict.fromkeys(config["modes"], 4)


@pytest.mark.parametrize("options, fails", [([], True), (["--float16"], False)], ids=["float32", "float16"])
def test_a_float32_export_that_writes_other_texts(options, fails, trained, exported, tmp_path, monkeypatch, capsys):
    """Graphs of another model: told in one line and by the status; where rounding may do it, texts are only counted."""
    rng = torch.Generator().manual_seed(1)
    weights = {name: x + 0.1 * torch.randn(x.shape, generator=rng) for name, x in trained.weights.items()}
    monkeypatch.setattr(trained_model, "read_model", lambda *_: dataclasses.replace(trained, weights=weights))
    monkeypatch.setattr(export, "write_graphs", lambda _, new: [shutil.copy(path, new) for path in exported.glob("*coder.*")])
    folder = tmp_path / "new"
    told = f"bang export: error: {folder}: does not write the model's texts in ar, semi-nar, nar, speculative, as float32 must"
    with pytest.raises(SystemExit, match=f"^{re.escape(told)}; do not use it$") if fails else contextlib.nullcontext():
        main(["export", "model", str(folder), *options])
    assert "ar: 0 of 8 texts as the model's" in capsys.readouterr().err and (folder / "config.json").exists()


def test_an_export_cannot_be_exported(exported, tmp_path):
    with pytest.raises(SystemExit) as stop:
        main(["export", str(exported), str(tmp_path / "new")])
    assert stop.value.code == f"bang export: error: {exported}/config.json: format 'bang export' is not 'bang model'"
    assert not list(tmp_path.iterdir())


def refused(folder):
    with pytest.raises((ValueError, FileNotFoundError)) as error:
        Bang.load(folder)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_bad_folders_get_one_line(exported, tmp_path):
    folder = tmp_path / "broken"
    shutil.copytree(exported, folder)
    (folder / "decoder.weights").unlink()
    assert "lacks decoder.weights" in refused(folder)
    (folder / "decoder.weights").write_bytes(b"")
    assert "decoder.onnx: cannot be loaded" in refused(folder)
    config = json.loads((folder / "config.json").read_text())
    for version in (99, "1", None, True):
        (folder / "config.json").write_text(json.dumps({**config, "version": version}))
        assert f"bang export of version {version!r}, and version 1 is wanted; make it again" in refused(folder)
    for key in ("modes", "shares", "specials", "num_buckets"):
        (folder / "config.json").write_text(json.dumps({name: value for name, value in config.items() if name != key}))
        assert f"config.json: lacks {key}, or has something else there; make it again" in refused(folder)
    (folder / "config.json").write_text(json.dumps({**config, "modes": "ar", "generation": None}))
    assert "config.json: lacks modes, generation, or has something else there" in refused(folder)
    for key, value in (("modes", []), ("modes", ["ar", "rna"]), ("modes", [["ar"]]), ("shares", {"ar": "all"}), ("num_buckets", 0),
                       ("relative_max_distance", True), ("specials", [0, 1]), ("max_target_positions", 0), ("files", 3),
                       ("blocks", [4]), ("blocks", [0, 4]), ("reduce_range", "no")):  # fmt: skip
        (folder / "config.json").write_text(json.dumps({**config, key: value}))
        assert f"config.json: lacks {key}, or has something else there; make it again" in refused(folder)
    shutil.copy(exported / "decoder.weights", folder)
    (folder / "config.json").write_text(json.dumps({**config, "generation": {"mode": "rna"}}))
    assert refused(folder) == f"{folder}: generates in mode 'rna' by default, and has ar, semi-nar, nar, speculative; make it again"
    (folder / "config.json").write_text(json.dumps({**config, "format": "another's"}))
    assert "format \"another's\" is not 'bang model' or 'bang export'" in refused(folder)


def test_a_cut_vocabulary_gets_one_line(exported, quantized, tmp_path):
    for number, whole in enumerate((exported, quantized[0])):
        folder = shutil.copytree(whole, tmp_path / str(number))
        lines = (folder / "vocab.txt").read_text(encoding="utf-8").splitlines(keepends=True)
        (folder / "vocab.txt").write_text("".join(lines[:1200]), encoding="utf-8")
        assert refused(folder) == f"{folder}/vocab.txt: 1200 word pieces, and the weights are of 1389; copy the folder whole"


def test_a_beam_as_wide_as_the_vocabulary(runtime):
    """And n-grams to be left out, for which a search looks at more candidates still."""
    assert runtime.generate("a", beam=694, max_len=2, no_repeat_ngram_size=1)
    with pytest.raises(ValueError, match="beam=695: the vocabulary of 1389 pieces holds one of 694 at most"):
        runtime.generate("a", beam=695)


def test_an_export_knows_the_blocks_of_its_training(exported, tmp_path, caplog):
    """One of an earlier time does not, and says nothing."""
    folder = shutil.copytree(exported, tmp_path / "blocks")
    config = json.loads((folder / "config.json").read_text())
    for blocks, warnings in (([4, 4], ["--draft-length 5: this checkpoint was trained with blocks of 4 tokens"]), (None, [])):
        (folder / "config.json").write_text(json.dumps({**config, "blocks": blocks}))
        caplog.clear()
        Bang.load(folder, threads=1).generate("a text", "speculative", draft_length=5, max_len=3)
        told = [record.getMessage().split(", expect")[0] for record in caplog.records if record.levelname == "WARNING"]
        assert told == warnings


def test_an_export_without_a_mode(exported, tmp_path, capsys):
    """As those of --arch bang_ar: in the API and on the command line."""
    folder = tmp_path / "ar"
    shutil.copytree(exported, folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "modes": ["ar", "speculative"]}))
    with pytest.raises(ValueError, match="^mode 'nar': this model has ar, speculative$"):
        Bang.load(folder).generate("text", "nar")
    with pytest.raises(SystemExit, match="^bang generate: error: mode 'nar': this model has ar, speculative$"):
        main(["generate", str(folder), "--mode", "nar"])
    assert capsys.readouterr().out == ""


def test_a_gpu_that_cannot_be_used(exported, monkeypatch):
    """onnxruntime says that it can use one, as its build for GPUs does without CUDA's libraries, and computes on the CPU."""
    monkeypatch.setattr("onnxruntime.get_available_providers", lambda: ["CUDAExecutionProvider", "CPUExecutionProvider"])
    with pytest.warns(UserWarning, match="CUDAExecutionProvider"):
        with pytest.raises(ValueError, match="^device cuda:1: onnxruntime cannot use it and would compute on the CPU; install") as refusal:
            Bang.load(exported, device="cuda:1")
    assert "\n" not in str(refusal.value)


def test_a_cpu_by_number_is_a_cpu(exported, runtime):
    engine = Bang.load(exported, device="cpu:0").engine
    assert (engine._graphs.whole, engine._graphs.at_once) == (True, runtime.engine._graphs.at_once)


def test_nothing_half_written(trained, tmp_path, monkeypatch):
    def broken(network, folder):
        (folder / "encoder.onnx").write_bytes(b"half")
        raise OSError("no space left")

    monkeypatch.setattr(export, "write_graphs", broken)
    with pytest.raises(OSError, match="no space left"):
        export.export(trained, tmp_path / "new")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("flags, asked, reduced", [
    ("sse2 avx512_vnni", None, False), ("sse2 avx2", None, True), ("", None, True), ("sse2 avx2", False, False), ("avx_vnni", True, True),
])  # fmt: skip
def test_cpus_that_saturate_get_seven_bits(flags, asked, reduced, trained, tmp_path, monkeypatch):
    found = []
    monkeypatch.setattr(export, "write_graphs", lambda network, folder: None)
    monkeypatch.setattr(export, "quantize", lambda path, reduce_range: found.append((path.name, reduce_range)))
    monkeypatch.setattr(cpu, "_flags", lambda: flags)
    export.export(trained, tmp_path / "new", "int8", asked)
    assert found == [("encoder.onnx", reduced), ("decoder.onnx", reduced)]
    assert json.loads((tmp_path / "new" / "config.json").read_text())["reduce_range"] == reduced


@pytest.mark.parametrize("flags, reduced, warns", [
    ("sse2 avx2", False, True), ("sse2 avx2", True, False), ("sse2 avx2", None, False), ("avx_vnni", False, False), ("", False, False),
])  # fmt: skip
def test_eight_bits_on_a_cpu_that_saturates_are_told(flags, reduced, warns, exported, tmp_path, monkeypatch, caplog):
    """Once, at load; not where nobody knows what the CPU is, or what an export of once is."""
    folder = shutil.copytree(exported, tmp_path / "new")
    config = json.loads((folder / "config.json").read_text())
    assert config["reduce_range"] is None  # float32
    (folder / "config.json").write_text(json.dumps({**config, "reduce_range": reduced}))
    monkeypatch.setattr(cpu, "_flags", lambda: flags)
    Bang.load(folder, threads=1).generate(TEXTS[:2], "nar", max_len=3)
    told = [record.getMessage() for record in caplog.records if "VNNI" in record.getMessage()]
    assert len(told) == warns and all(message.startswith(f"{folder}: made for CPUs with VNNI") for message in told)


def test_bad_options_get_one_line(exported, runtime, trained, tmp_path):
    with pytest.raises(ValueError, match="this model has ar, "):
        runtime.generate("text", "backwards")
    with pytest.raises(ValueError, match="exported as float32"):
        Bang.load(exported, dtype="bfloat16")
    for device in ("tpu", "cuda"):
        with pytest.raises(ValueError, match=f"device '{device}': this onnxruntime has cpu alone"):
            Bang.load(exported, device=device)
    with pytest.raises(ValueError, match="device 'cpu:x': give cpu, or its number too, as in cpu:0"):
        Bang.load(exported, device="cpu:x")
    with pytest.raises(ValueError, match="is there already"):
        export.export(trained, exported)
    with pytest.raises(ValueError, match="precision 'int4'"):
        export.export(trained, tmp_path / "new", "int4")
    assert not list(tmp_path.iterdir())
