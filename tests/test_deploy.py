"""What bang export makes: graphs against the plugin, precisions, checks and refusals."""

import contextlib
import dataclasses
import json
import re
import shlex
import shutil

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from conftest import REFERENCES, ROOT, TEXTS, TINY, TRAINING, VOCAB_SMALL, debian, without_sums
from fairseq import options
from fairseq.dataclass.utils import convert_namespace_to_omegaconf
from omegaconf import OmegaConf
from onnxruntime import quantization

from bang import visibility
from bang.__main__ import main
from bang.cli.export import _cost
from bang.deploy import export
from bang.deploy.graph import DecoderGraph, EncoderGraph
from bang.inference import cpu, trained_model
from bang.inference.api import Bang, Generation
from bang.options import Options
from bang.recipes import training
from bang.text.evaluate import evaluate

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
        sees, bucket = visibility.pass_visibility(
            np, visibility.bucket_table(), main, position[None], last[None], visibility.main_position(number), number,
            np.concatenate([none, block]), np.concatenate([none, index]),
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
        scores = [np.array([found.score for found in model.engine.generate(sources[:20], options)]) for model in (runtime, int8)]
        assert abs(scores[0] - scores[1]).mean() < 0.2


def test_products_keep_a_scale_for_each_output(exported, quantized):
    """Every product with weights is one of int8, the output layer's, by far the largest, among them."""
    found = set()
    for name in (export.ENCODER, export.DECODER):
        whole, graph = (onnx.load(folder / name).graph for folder in (exported, quantized[0]))
        dims, scales = ({tensor.name: list(tensor.dims) for tensor in x.initializer} for x in (whole, graph))
        weights = [node.input[1] for node in whole.node if node.op_type in ("MatMul", "Gemm") and node.input[1] in dims]
        products = {node.input[1] for node in graph.node if node.op_type == "MatMulIntegerToFloat"}
        assert len(weights) > 15 and products == set(weights)
        assert all(scales[f"{weight}.scale"] == dims[weight][1:] and scales[weight] == dims[weight] for weight in weights)
        found |= products
    assert "output" in found


@pytest.mark.parametrize("most, error", [(127, 0.02), (64, 0.03)])
def test_rows_have_scales_of_their_own(most, error):
    """A row's product is the same to the last digit whatever stands beside it; a row of zeros gives zeros."""
    rng = np.random.default_rng(1)
    weight = rng.standard_normal((48, 20), dtype=np.float32)
    x = rng.standard_normal((2, 4, 48), dtype=np.float32) * np.array([1, 1e-20, 1e6, 0], dtype=np.float32)[:, None]
    values = [
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["rows", "length", width])
        for name, width in (("x", 48), ("y", 20))
    ]
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("MatMul", ["x", "weight"], ["y"])], "product", values[:1], values[1:],
        [onnx.numpy_helper.from_array(weight, "weight")]
    )  # fmt: skip
    proto = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", export.OPSET)], ir_version=10)
    export._quantize_products(proto, most)
    session = onnxruntime.InferenceSession(proto.SerializeToString())
    (y,), expected = session.run(None, {"x": x}), x @ weight
    assert (y[:, 3] == 0).all() and (abs(y - expected).max(2) <= error * abs(expected).max(2)).all()
    for row in range(2):
        for place in range(4):
            (alone,) = session.run(None, {"x": x[row : row + 1, place : place + 1]})
            assert (alone[0, 0] == y[row, place]).all()


@pytest.mark.parametrize("bits", [8, 7])
def test_int8_texts_do_not_depend_on_their_batch(bits, quantized, sources):
    """Alone, in a batch, in another order: the same tokens and, to the last digit, scores; speculative decoding is greedy AR."""
    engine = Bang.load(quantized[bits == 7], threads=1).engine
    order, found = np.random.default_rng(1).permutation(len(sources)), {}
    for mode in engine.modes:
        options = Options(mode=mode, beam=1, max_len=20, block_size=3, draft_length=3)
        alone = [engine.generate([source], options)[0] for source in sources]
        shuffled = engine.generate([sources[index] for index in order], options)
        for texts in (engine.generate(sources, options), [shuffled[place] for place in order.argsort()]):
            assert [text[:3] for text in texts] == [text[:3] for text in alone]
        found[mode] = [text[:3] for text in alone]
    assert found["speculative"] == found["ar"] and len({tuple(text[0]) for text in found["ar"]}) > 10


def test_exports_of_one_scale_a_tensor_still_load(exported, runtime, tmp_path):
    """What int8 exports were: onnxruntime's `quantize_dynamic`."""
    folder = without_sums(shutil.copytree(exported, tmp_path / "old"))
    for name in (export.ENCODER, export.DECODER):
        quantization.quantize_dynamic(exported / name, folder / name, op_types_to_quantize=["MatMul"], per_channel=True,
                                      weight_type=quantization.QuantType.QInt8,
                                      extra_options={"DefaultTensorType": onnx.TensorProto.FLOAT})  # fmt: skip
    found, expected = (model.generate(TEXTS, "ar", beam=1, max_len=10) for model in (Bang.load(folder, threads=1), runtime))
    assert sum(a == b for a, b in zip(found, expected)) > len(TEXTS) // 2


@pytest.mark.slow
def test_int8_texts_of_the_shipped_model_are_their_own(tmp_path):
    export.export(
        trained_model.read_model(ROOT / "models" / "debian-synopsis" / "checkpoint.pt", None), tmp_path / "int8", "int8"
    )
    model = Bang.load(tmp_path / "int8")
    texts = debian("test.src")[:200]
    order, found = np.random.default_rng(1).permutation(len(texts)), {}
    for mode in ("nar", "semi-nar", "ar", "speculative"):
        options = dict(mode=mode, beam=1, max_len=40, truncate=True)
        alone = [model.generate(text, **options) for text in texts]
        shuffled = model.generate([texts[index] for index in order], batch_tokens=700, **options)
        assert model.generate(texts, **options) == alone == [shuffled[place] for place in order.argsort()]
        found[mode] = alone
    assert found["speculative"] == found["ar"]


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


def test_the_command(export_command, trained, runtime):
    folder, said = export_command
    assert said.splitlines()[:2] == ["graphs of the encoder and the decoder …", "check with 3 texts …"]
    for mode, line in zip(runtime.modes, said.splitlines()[-4:], strict=True):
        texts = {"": [found.text for found in runtime.generate(TEXTS[:3], mode, beam=1, max_len=64, details=True)]}
        scores = evaluate(texts, REFERENCES[:3], ["rouge"])["systems"][""]
        rouge = "/".join(f"{scores[name]:.2f}" for name in ("ROUGE-1", "ROUGE-2", "ROUGE-L"))
        assert line == f"{mode}: 3 of 3 texts as the model's; ROUGE-1/ROUGE-2/ROUGE-L {rouge}, the model's {rouge}"
    assert runtime.modes == trained.build().decodes and runtime.engine.shares == trained.shares
    assert runtime.engine.blocks == trained.blocks == (1, 1)
    assert oct(folder.joinpath("decoder.weights").stat().st_mode) == oct(folder.joinpath("config.json").stat().st_mode)


def test_the_cost_of_an_export_in_rouge():
    own, exported = [Generation("a b c d", [])], [Generation("a b c", [])]
    assert _cost(own, exported, ["a b c d"]) == "; ROUGE-1/ROUGE-2/ROUGE-L 85.71/80.00/85.71, the model's 100.00/100.00/100.00"


@pytest.mark.parametrize("options, message", [
    (["--reference", "{0}/three"], "--reference FILE belongs to the texts of --check FILE: give them too"),
    (["--check", "{0}/three", "--reference", "{0}/two"], "{0}/three has 3 lines and {0}/two 2: give a reference for each"),
    (["--check", "{0}/blank"], "{0}/blank: holds no text to check with"),
])  # fmt: skip
def test_texts_to_check_with_that_do_not_serve(options, message, tmp_path):
    """Told before the work begins."""
    for name, lines in (("three", "a\nb\nc\n"), ("two", "a\nb\n"), ("blank", "\n \n")):
        (tmp_path / name).write_text(lines)
    with pytest.raises(SystemExit) as stop:
        main(["export", "no-such-model", str(tmp_path / "new"), *(option.format(tmp_path) for option in options)])
    assert stop.value.code == f"bang export: error: {message.format(tmp_path)}"


def test_the_check_warns_once(trained, exported, caplog):
    """Not for the model and for its export too."""
    assert [mode for mode, own, found in export.texts_of_both(trained, exported, TEXTS[:1]) if own[0].text == found[0].text]
    told = [record.getMessage() for record in caplog.records if record.name == "bang.inference.api"]
    assert len(told) == len(set(told)) == 2 and told[0].startswith("mode semi-nar: this model was not trained for it")


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


def finetuning(mode):
    """The options of `bang finetune --mode` that say what is trained."""
    return shlex.split(training.TRAINING_OPTIONS[mode])


MIXED_LOSS, PLAIN_LOSS = "ngram_language_loss_NAR_mixed", "label_smoothed_cross_entropy"
TRAININGS = {
    **{mode: ("bang_ar_nar_mixed", MIXED_LOSS, mode) for mode in training.TRAINING_OPTIONS},
    "bang_ar": ("bang_ar", "ngram_language_loss", "n-stream"),
    "bang_nar": ("bang_nar", PLAIN_LOSS, None),
    "pretraining": ("bang_ar_nar_mixed", "ngram_language_loss", "n-stream", "--task", "bang_pretraining"),
}


@pytest.fixture(params=TRAININGS.values(), ids=TRAININGS)
def any_checkpoint(request, golden_states, tmp_path):
    """A checkpoint of a training of each mode and family of architectures: fairseq's options for it, the golden weights."""
    architecture, criterion, mode, *more = request.param
    words = ["data-bin", *TRAINING, *TINY, "--arch", architecture, "--criterion", criterion, "--activation-fn", "gelu", *more]
    of_mode = finetuning(mode) if mode else []
    if criterion != MIXED_LOSS and "--nar-ratio" in of_mode:
        del of_mode[(at := of_mode.index("--nar-ratio")) : at + 2]
    arguments = options.parse_args_and_arch(options.get_training_parser(), [*words, *of_mode])
    cfg = OmegaConf.to_container(convert_namespace_to_omegaconf(arguments), resolve=True, enum_to_str=True)
    kept = {name: golden_states["mixed"][name] for name in ("model", "optimizer_history", "extra_state")}
    torch.save({"args": None, "cfg": cfg, "task_state": {}, **kept}, tmp_path / "checkpoint.pt")
    return tmp_path / "checkpoint.pt"


def test_every_training_can_be_shipped(any_checkpoint, exported, tmp_path, monkeypatch):
    """Checkpoint, folder, export, and back to a checkpoint: what one step writes the next one reads, and the texts stay.

    The golden graphs stand in for the export's own, which hold the same weights.
    """
    monkeypatch.setattr(export, "write_graphs", lambda _, new: [shutil.copy(path, new) for path in exported.glob("*coder.*")])
    main(["pack", str(any_checkpoint), str(tmp_path / "folder"), "--vocab", str(VOCAB_SMALL)])
    main(["unpack", str(tmp_path / "folder"), str(tmp_path / "back.pt")])
    export.export(trained_model.read_model(tmp_path / "folder"), tmp_path / "export")
    original, *others = (
        Bang.load(path, vocab=vocab, threads=1)
        for path, vocab in ((any_checkpoint, VOCAB_SMALL), (tmp_path / "folder", None), (tmp_path / "back.pt", VOCAB_SMALL),
                            (tmp_path / "export", None))
    )  # fmt: skip
    for mode in original.modes:
        expected = original.generate(TEXTS[:3], mode, beam=1, max_len=9)
        assert all(expected) and all(model.generate(TEXTS[:3], mode, beam=1, max_len=9) == expected for model in others)
    for model in others:
        assert model.defaults == original.defaults and model.modes == original.modes
        assert (model.engine.shares, model.engine.blocks) == (original.engine.shares, original.engine.blocks)


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
    folder = without_sums(shutil.copytree(exported, tmp_path / "broken"))
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
    for key, value in (("modes", []), ("modes", ["ar", "rna"]), ("modes", [["ar"]]), ("shares", {"ar": "all"}),
                       ("num_buckets", 0), ("relative_max_distance", True), ("specials", [0, 1]), ("max_target_positions", 0),
                       ("files", 3), ("blocks", [4]), ("blocks", [-1, 4]), ("reduce_range", "no")):  # fmt: skip
        (folder / "config.json").write_text(json.dumps({**config, key: value}))
        assert f"config.json: lacks {key}, or has something else there; make it again" in refused(folder)
    shutil.copy(exported / "decoder.weights", folder)
    (folder / "config.json").write_text(json.dumps({**config, "generation": {"mode": "rna"}}))
    assert (
        refused(folder) == f"{folder}: generates in mode 'rna' by default, and has ar, semi-nar, nar, speculative; make it again"
    )
    (folder / "config.json").write_text(json.dumps({**config, "format": "another's"}))
    assert "format \"another's\" is not 'bang model' or 'bang export'" in refused(folder)


def test_a_cut_vocabulary_gets_one_line(exported, quantized, tmp_path):
    for number, whole in enumerate((exported, quantized[0])):
        folder = shutil.copytree(whole, tmp_path / str(number))
        if number == 0:
            without_sums(folder)
        lines = (folder / "vocab.txt").read_text(encoding="utf-8").splitlines(keepends=True)
        (folder / "vocab.txt").write_text("".join(lines[:1200]), encoding="utf-8")
        assert refused(folder) == f"{folder}/vocab.txt: 1200 word pieces, and the weights are of 1389; copy the folder whole"


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


def test_nothing_half_written(trained, tmp_path, monkeypatch):
    def broken(network, folder):
        (folder / "encoder.onnx").write_bytes(b"half")
        raise OSError("no space left")

    monkeypatch.setattr(export, "write_graphs", broken)
    with pytest.raises(OSError, match="no space left"):
        export.export(trained, tmp_path / "new")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("flags, asked, reduced", [
    ("sse2 avx512_vnni", None, False), ("sse2 avx2", None, True), ("", None, True), ("sse2 avx2", False, False),
    ("avx_vnni", True, True),
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
    ("sse2 avx2", False, True), ("sse2 avx2", True, False), ("sse2 avx2", None, False), ("avx_vnni", False, False),
    ("", False, False),
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
