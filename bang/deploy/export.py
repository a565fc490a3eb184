"""A trained model as ONNX graphs in a folder, checked against the model that they come from.

The folder: encoder.onnx and decoder.onnx (`graph`), config.json, vocab.txt.
"""

import contextlib
import json
import logging
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxscript  # noqa: F401  (torch.onnx.export asks for it when the work has begun)
import torch
from onnx import TensorProto, helper, numpy_helper
from torch.export import Dim

from ..errors import UserError
from ..inference import cpu
from ..inference.api import Bang, Generation
from ..inference.torch_engine import TorchEngine
from ..inference.trained_model import DTYPES, TrainedModel
from ..network.model import BangModel
from ..safety.folder import CONFIG, EXPORT, VERSIONS, checksums
from ..text.files import StrPath, new_folder
from .graph import DecoderGraph, EncoderGraph
from .pack import save_beside

ENCODER, DECODER = "encoder.onnx", "decoder.onnx"
OPSET = 21
PRECISIONS = ("float32", "int8", "float16")
_CHECKED = 64  # most word pieces of a text that an export is checked with


def export(
    model: TrainedModel,
    folder: StrPath,
    precision: str = "float32",
    reduce_range: bool | None = None,
    progress: Callable[[str], None] = lambda step: None,
) -> None:
    """Writes the folder of an exported model, whole or not at all.

    Args:
        folder: to be made; must not exist, or be empty.
        precision: one of `PRECISIONS`; float16 is meant for GPUs.
        reduce_range: int8 weights of 7 bits, for CPUs without VNNI, where sums of 8-bit products
            saturate; None: as this CPU needs, and 7 bits where that is unknown.
        progress: is called with the name of each step as it begins.

    Raises:
        ValueError: the folder holds something, or there is no such precision.
    """
    if precision not in PRECISIONS:
        raise UserError(f"precision {precision!r}: give one of {', '.join(PRECISIONS)}")
    network = model.build()
    dtype = DTYPES["float16" if precision == "float16" else "float32"]
    reduced = not cpu.has_vnni() if reduce_range is None else reduce_range
    with new_folder(folder) as new:
        progress("graphs of the encoder and the decoder")
        write_graphs(network.to(dtype), new)
        if precision == "int8":
            progress("weights of 8 bits")
            for name in (ENCODER, DECODER):
                quantize(new / name, reduced)
        files = sorted(path.name for path in new.iterdir())
        files += save_beside(model, new)
        config = {
            "format": EXPORT,
            "version": VERSIONS[EXPORT],
            "architecture": model.architecture,
            "precision": precision,
            "reduce_range": reduced if precision == "int8" else None,
            "modes": list(network.decodes),
            "shares": model.shares,
            "blocks": model.blocks,
            "generation": model.generation,
            "max_source_positions": model.sizes["max_source_positions"],
            "max_target_positions": model.sizes["max_target_positions"],
            "num_buckets": model.sizes["num_buckets"],
            "relative_max_distance": model.sizes["relative_max_distance"],
            "specials": _specials(network),
            "files": files,
        }
        config["sha256"] = checksums(new, files, config)
        (new / CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def _specials(network: BangModel) -> list[int]:
    dictionary = network.decoder.dictionary
    return [dictionary.pad(), dictionary.unk(), dictionary.eos()]


def write_graphs(network: BangModel, folder: Path) -> None:
    """Writes the two graphs of a network, in its own precision."""
    encoder, decoder = EncoderGraph(network), DecoderGraph(network, _specials(network))
    layers, heads, width = len(decoder.layers), encoder.heads, encoder.width // encoder.heads
    kinds = [f"{layer}.{kind}" for layer in range(layers) for kind in ("key", "value")]
    rows, source, cached, main, slots = 2, 7, 3, 2, 4  # any sizes beyond 1, all different
    queries, keys = main + slots, cached + main + slots

    def ones(*shape: int) -> torch.Tensor:
        return torch.ones(shape, dtype=torch.long)

    def columns(length: int) -> list[torch.Tensor]:
        return [torch.zeros(rows, heads, length, width, dtype=decoder.slot.dtype) for _ in kinds]

    two, three, column = (dict.fromkeys(dims, Dim.DYNAMIC) for dims in ((0, 1), (0, 1, 2), (0, 2)))
    of_source = [f"source.{kind}" for kind in kinds]
    _write(encoder, folder / ENCODER, {"source": ones(rows, source)}, of_source, (two,))
    inputs = {
        "main_tokens": ones(rows, main),
        "main_positions": ones(rows, main),
        "slot_positions": ones(rows, slots),
        "sees": ones(rows, queries, keys).bool(),
        "bucket": ones(rows, queries, keys),
        "source_real": ones(rows, source).bool(),
        "cache": columns(cached),
        "source": columns(source),
    }
    dynamic = (two, two, two, three, three, two, [column] * len(kinds), [column] * len(kinds))
    outputs = ["log_probs", "specials", *(f"new.{kind}" for kind in kinds)]
    _write(decoder, folder / DECODER, inputs, outputs, dynamic, kinds, candidates=True)


def _write(
    module: torch.nn.Module,
    path: Path,
    inputs: dict,
    outputs: list[str],
    dynamic: tuple,
    kinds: Sequence[str] = (),
    candidates: bool = False,
) -> None:
    """Exports a module; an input that is a list has a name for each of `kinds`."""
    names: list[str] = []
    for name, value in inputs.items():
        names += [name] if isinstance(value, torch.Tensor) else [f"{name}.{kind}" for kind in kinds]
    with _quiet(), torch.no_grad():
        program = torch.onnx.export(
            module.eval(), tuple(inputs.values()), dynamo=True, opset_version=OPSET, input_names=names,
            output_names=outputs, dynamic_shapes=dynamic, verbose=False,
        )  # fmt: skip
    assert program is not None, "dynamo=True gives a program"
    proto = program.model_proto
    if candidates:
        _add_candidates(proto)
    save(proto, path)


def _add_candidates(proto: onnx.ModelProto) -> None:
    """Adds the `count` likeliest tokens of each slot, `tokens` and their log-probabilities `scores`."""
    graph = proto.graph
    log_probs = next(output for output in graph.output if output.name == "log_probs")
    shape = [dim.dim_param or dim.dim_value for dim in log_probs.type.tensor_type.shape.dim]
    graph.input.append(helper.make_tensor_value_info("count", TensorProto.INT64, [1]))
    graph.node.append(helper.make_node("TopK", ["log_probs", "count"], ["scores", "tokens"], "candidates", axis=-1))
    for name, kind in (("scores", TensorProto.FLOAT), ("tokens", TensorProto.INT64)):
        graph.output.append(helper.make_tensor_value_info(name, kind, [*shape[:2], "candidates"]))


def save(proto: onnx.ModelProto, path: Path) -> None:
    """Saves a graph; its weights in one file beside it, which onnxruntime maps into memory."""
    data = path.with_suffix(".weights").name
    path.with_name(data).touch()  # onnx would keep it from other users
    onnx.save(proto, path, save_as_external_data=True, all_tensors_to_one_file=True, location=data, size_threshold=1024)


def quantize(path: Path, reduce_range: bool) -> None:
    """Weights of 8 bits, or 7, a scale for each output channel, of tables for each row; activations of 8 bits as they come."""
    proto = onnx.load(path)
    _quantize_products(proto, 64 if reduce_range else 127)
    _quantize_tables(proto.graph)
    path.with_suffix(".weights").unlink()
    save(proto, path)


def _quantize_products(proto: onnx.ModelProto, most: int) -> None:
    """Products with weights become products of int8, with a scale for each row of their input.

    onnxruntime's own `quantize_dynamic` has one scale for the whole input: a text would change with its batch mates. By
    rows, with `m` the largest |x| of a row and `s` the weights' scale: x @ W = m / 127 * (round(127 / m * x) @ round(W / s)) * s.
    Products of one input share what is quantized.

    Args:
        most: largest quantized weight.
    """
    graph = proto.graph
    weights = {tensor.name: tensor for tensor in graph.initializer if len(tensor.dims) == 2}
    constants = {
        "last": np.array([-1]),
        "tiny": np.float32(1e-30),
        "step": np.float32(1 / 127),
        "middle": np.uint8(128),
        "one": np.float32(1),
    }
    graph.initializer.extend(numpy_helper.from_array(np.asarray(x), f"quantize.{name}") for name, x in constants.items())
    proto.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    dims = {value.name: value.type.tensor_type.shape.dim[:2] for value in graph.value_info}
    shapes = {name: str(known) for name, known in dims.items() if all(dim.dim_param or dim.dim_value for dim in known)}
    nodes, quantized, zeros = [], set(), {}  # zeros: zero points by the shape of what is quantized

    def add(kind: str, inputs: list[str], output: str, **attributes) -> None:
        inputs = [f"quantize.{name}" if name in constants else name for name in inputs]
        nodes.append(helper.make_node(kind, inputs, [output], output, **attributes))

    for node in graph.node:
        if node.op_type != "MatMul" or node.input[1] not in weights:
            nodes.append(node)
            continue
        (x, name), (y,) = node.input, node.output
        weight = numpy_helper.to_array(weights[name])  # (in, out)
        if x not in quantized:
            quantized.add(x)
            add("ReduceMax", [x, "last"], f"{x}.largest", keepdims=1)
            add("ReduceMin", [x, "last"], f"{x}.smallest", keepdims=1)
            add("Neg", [f"{x}.smallest"], f"{x}.negated")
            add("Max", [f"{x}.largest", f"{x}.negated", "tiny"], f"{x}.most")  # rows of zeros are divided by it too
            add("Mul", [f"{x}.most", "step"], f"{x}.scale")
            rows = shapes.get(x, x)
            if rows not in zeros:
                zeros[rows] = f"{x}.zeros"
                add("Shape", [f"{x}.scale"], f"{x}.rows")
                add("Expand", ["middle", f"{x}.rows"], zeros[rows])
            # a block is a row
            add("QuantizeLinear", [x, f"{x}.scale", zeros[rows]], f"{x}.quantized", axis=2, block_size=len(weight))
        scale = np.maximum(np.abs(weight).max(0), 1e-20) / most
        weights[name].CopyFrom(numpy_helper.from_array(np.rint(weight / scale).astype(np.int8), name))
        graph.initializer.append(numpy_helper.from_array(scale.astype(np.float32), f"{name}.scale"))
        add(
            "MatMulIntegerToFloat",
            [f"{x}.quantized", name, "one", f"{name}.scale", "middle"],
            f"{y}.product",
            domain="com.microsoft",
        )
        add("Mul", [f"{y}.product", f"{x}.scale"], y)
    del graph.node[:]
    graph.node.extend(nodes)


def _quantize_tables(graph: onnx.GraphProto) -> None:
    """Tables of embeddings: what onnxruntime's own quantization gives them, one scale for a whole table, costs texts."""
    tables = {tensor.name: tensor for tensor in graph.initializer if len(tensor.dims) == 2}
    nodes, scaled = [], set()
    for node in graph.node:
        nodes.append(node)
        if node.op_type != "Gather" or node.input[0] not in tables:
            continue
        name, ids, (found,) = node.input[0], node.input[1], node.output
        if name not in scaled:
            scaled.add(name)
            table = numpy_helper.to_array(tables[name])  # (V, D)
            scale = np.maximum(np.abs(table).max(1, keepdims=True), 1e-20) / 127  # (V, 1)
            tables[name].CopyFrom(numpy_helper.from_array(np.rint(table / scale).astype(np.int8), name))
            graph.initializer.append(numpy_helper.from_array(scale.astype(np.float32), f"{name}.scale"))
        node.output[0] = f"{found}.rows"
        nodes += [
            helper.make_node("Cast", [f"{found}.rows"], [f"{found}.whole"], f"{node.name}.cast", to=TensorProto.FLOAT),
            helper.make_node("Gather", [f"{name}.scale", ids], [f"{found}.scale"], f"{node.name}.scale"),
            helper.make_node("Mul", [f"{found}.whole", f"{found}.scale"], [found], f"{node.name}.mul"),
        ]
    del graph.node[:]
    graph.node.extend(nodes)


_EXPORTING = threading.RLock()  # the settings changed within are global


@contextlib.contextmanager
def _quiet():
    """Silences the exporters' progress and debug messages."""
    with _EXPORTING:
        disabled = logging.root.manager.disable
        logging.disable(logging.WARNING)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                yield
        finally:
            logging.disable(disabled)


def compare(model: TrainedModel, folder: StrPath, texts: Sequence[str], batch_tokens: int = 1024) -> dict[str, int]:
    """How many texts of a model and of its export agree, by mode; see `texts_of_both`."""
    return {
        mode: sum(a.pieces == b.pieces for a, b in zip(own, exported))
        for mode, own, exported in texts_of_both(model, folder, texts, batch_tokens)
    }


def texts_of_both(
    model: TrainedModel, folder: StrPath, texts: Sequence[str], batch_tokens: int = 1024
) -> Iterator[tuple[str, list[Generation], list[Generation]]]:
    """Generates with the model and with its export: a mode, and what each of them gives, as soon as it is there.

    Every mode that the export has, with the export's defaults but for these: AR greedily, texts of at most 64 word
    pieces, sources cut.
    """
    exported = Bang.load(folder)
    dictionary = model.dictionary
    original = Bang(TorchEngine(model, device="cpu"), dictionary.symbols, exported.defaults, dictionary.normalization)
    exported._warned = original._warned  # one warning for both
    lengths = dict(max_len=_CHECKED, max_len_a=0, min_len=min(exported.defaults.min_len, _CHECKED))
    for mode in exported.modes:
        options: dict[str, Any] = dict(mode=mode, beam=1, **lengths, truncate=True, details=True, batch_tokens=batch_tokens)
        yield mode, original.generate(list(texts), **options), exported.generate(list(texts), **options)
