"""Hostile and damaged inputs, made anew each time: checkpoints, model folders, exports, starts, data, vocabularies, links.

A case is a file or folder that a stranger may hand over, or a disk may spoil. `Material` holds whole ones to spoil.
"""

import argparse
import json
import math
import os
import random
import shutil
import struct
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import load_file, save_file

SAVED = b"\x80\x02"  # how a pickle of protocol 2 begins


@dataclass(frozen=True)
class Material:
    """Whole inputs.

    Attributes:
        checkpoint: of fairseq-train, with one file of torch >= 1.6.
        old: the same as torch < 1.6 wrote it.
        state: what it holds.
        folder, export: of bang pack and bang export.
        start: a folder in the Hugging Face layout.
        data: a folder of fairseq-preprocess. vocab: its vocabulary. link: a file of bang link.
    """

    checkpoint: Path
    old: Path
    state: dict
    folder: Path
    export: Path
    start: Path
    data: Path
    vocab: Path
    link: Path


class Case(NamedTuple):
    """One input.

    Attributes:
        kind: what it is about, a row of the table.
        way: what opens it, see `runner`.
        name: says what is wrong.
        make: writes it into an empty folder; where it is.
    """

    kind: str
    way: str
    name: str
    make: Callable[[Path], Path]


def cases(of: Material) -> list[Case]:
    """All of them, in an order that never changes."""
    parts = (_pickles, _archives, _flips, _settings, _states, _weights, _configs, _starts, _binarized, _texts)
    return [case for part in parts for case in part(of)]


# Pickles -----------------------------------------------------------------------------------------------------------------


def _text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value.encode())) + value.encode()


def _whole(value: int) -> bytes:
    return b"J" + struct.pack("<i", value)


def _call(name: str, *arguments: bytes) -> bytes:
    module, _, function = name.rpartition(".")
    return b"c" + module.encode() + b"\n" + function.encode() + b"\n(" + b"".join(arguments) + b"tR"


def pickles() -> dict[str, bytes]:
    """What takes for ever, takes all memory or runs something, and what only looks odd."""
    lists = b"]q\x00" + b"".join(b"]q" + bytes([i + 1]) + 2 * (b"h" + bytes([i]) + b"a") for i in range(60))
    tuples = b"K\x01" + b"".join(b"q" + bytes([i]) + b"h" + bytes([i]) + b"\x86" for i in range(60))
    much = _text("a" * (1 << 16))
    found = {
        "lists in lists": lists,
        "tuples of tuples": tuples,
        "tuples as a key": b"}" + tuples + b"K\x01s",
        "a tuple as a key": b"}" + b"K\x01\x85K\x01s",
        "a list in itself": b"]q\x00h\x00a",
        "a dict in itself": b"}q\x00" + _text("a") + b"h\x00s",
        "a tuple 100,000 deep": b")" + b"\x85" * 100_000,
        "lists 5,000 deep": b"]" * 5000 + b"a" * 4999,
        "a million dicts": b"(" + b"}" * 1_000_000 + b"l",
        "half a million dicts in a tuple": b"(" + b"}" * 500_000 + b"t",
        "one text copied 2,000 times": b"(" + much + b"q\x00"
        + b"".join(_call("_codecs.encode", b"h\x00", _text("latin1")) for _ in range(2000)) + b"t",
        "a dict of 20,000 items copied 5,000 times": b"(}q\x00(" + b"".join(_whole(number) + b"N" for number in range(20_000))
        + b"u" + b"cargparse\nNamespace\n)\x81" + b"h\x00b" * 5000 + b"t",
        "bytes in the code zip": _call("_codecs.encode", _text("a"), _text("zip")),
        "bytes in the code idna": _call("_codecs.encode", _text("a" * 5000), _text("idna")),
        "an OrderedDict of pairs": _call("collections.OrderedDict", b"]"),
        "a place in the memory that is not there": b"h\x07",
        "an item too many": b"0",
        "a mark that is not there": b"t",
        "nothing": b"",
        "a text of 4 GB that ends": b"X" + struct.pack("<I", (1 << 32) - 1) + b"a",
        "an unknown instruction": b"\xff",
        "protocol 5": b"\x80\x05\x95" + struct.pack("<Q", 1 << 60),
        "a frame of 2 ** 60 bytes": b"\x95" + struct.pack("<Q", 1 << 60),
    }  # fmt: skip
    for name in ("builtins.bytearray", "builtins.bytes", "builtins.list", "torch.Tensor", "torch.FloatTensor",
                 "torch.storage.UntypedStorage", "torch.FloatStorage", "numpy.zeros", "builtins.range"):  # fmt: skip
        found[f"{name}(2,000,000,000)"] = _call(name, _whole(2_000_000_000))
    for name in ("os.system", "posix.system", "builtins.eval", "builtins.exec", "builtins.getattr", "subprocess.Popen",
                 "torch.load", "torch.hub.load", "importlib.import_module", "builtins.__import__", "pickle.loads",
                 "shutil.rmtree",
                 "torch._utils._rebuild_wrapper_subclass", "torch._utils._rebuild_sparse_tensor", "torch._utils._rebuild_qtensor",
                 "torch._utils._rebuild_meta_tensor_no_storage", "torch._tensor._rebuild_from_type_v2", "collections.Counter",
                 "torch.serialization._get_layout", "builtins.set", "builtins.complex"):  # fmt: skip
        found[f"{name}('x')"] = _call(name, _text("x"))
    kinds = {"a number": b"K\x01", "a text": _text("x"), "an empty tuple": b")", "a short tuple": _text("storage") + b"\x85"}
    float32 = b"ctorch\nFloatStorage\n"
    for name, count in (("no", b"N"), ("minus one", _whole(-1)), ("two billion", _whole(2_000_000_000)), ("true", b"\x88")):
        kinds[f"a block of {name} numbers"] = b"(" + _text("storage") + float32 + _text("0") + _text("cpu") + count + b"t"
    kinds["a block of another kind"] = b"(" + _text("storage") + _text("x") + _text("0") + _text("cpu") + b"K\x01t"
    kinds["a block of complex numbers"] = (
        b"(" + _text("storage") + b"ctorch\nComplexFloatStorage\n" + _text("0") + _text("cpu") + b"K\x01t"
    )
    kinds["a block outside of the file"] = b"(" + _text("storage") + float32 + _text("../../x") + _text("cpu") + b"K\x01t"
    kinds["a module"] = b"(" + _text("module") + float32 + _text("a") + _text("b") + b"t"
    return found | {f"refers to {name}": reference + b"Q" for name, reference in kinds.items()}


def _archive(path: Path, pickled: bytes, compression: int = zipfile.ZIP_STORED, more: dict[str, bytes] | None = None) -> Path:
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr("archive/data.pkl", pickled)
        for name, data in {"archive/version": b"3\n", **(more or {})}.items():
            archive.writestr(name, data)
    return path


def _old_file(path: Path, pickled: bytes) -> Path:
    magic = SAVED + b"\x8a\x0a" + (0x1950A86A20F9469CFC6C).to_bytes(10, "little") + b"."
    path.write_bytes(magic + SAVED + b"M\xe9\x03." + SAVED + b"}." + pickled + SAVED + b"].")
    return path


def _pickles(of: Material) -> Iterator[Case]:
    for name, body in pickles().items():
        pickled = SAVED + body + b"."
        for kind, write in (("zip", _archive), ("old", _old_file)):
            yield Case(
                "pickles", "checkpoint", f"{name}, {kind}", lambda at, write=write, data=pickled: write(at / "bad.pt", data)
            )


def _archives(of: Material) -> Iterator[Case]:
    good, size = of.checkpoint.read_bytes(), of.checkpoint.stat().st_size
    empty = SAVED + b"}."

    def file(name: str, write: Callable[[Path], Any], way: str = "checkpoint") -> Case:
        return Case("files that are not what they seem", way, name, lambda at: write(at / "bad.pt") or at / "bad.pt")

    for share in range(10):
        yield file(f"cut at {share} tenths", lambda path, share=share: path.write_bytes(good[: size * share // 10]) and None)
        yield file(
            f"zeros from {share} tenths on",
            lambda path, share=share: path.write_bytes(good[: size * share // 10] + bytes(size - size * share // 10)) and None,
        )
    zeros = bytes(30 << 20)
    for name, pickled, more in (
        ("a pickle of 30 MB in 30 kB", zeros, {}),
        ("a block of 30 MB in 30 kB", empty, {"archive/data/0": zeros}),
        ("blocks of 300 MB in 300 kB", empty, {f"archive/data/{number}": zeros for number in range(10)}),
    ):
        yield file(name, lambda path, a=pickled, b=more: _archive(path, a, zipfile.ZIP_DEFLATED, b) and None)
    many = {f"archive/{number}": b"" for number in range(70_000)}
    yield file("70,000 parts", lambda path: _archive(path, empty, more=many) and None)
    yield file("no pickle", lambda path: zipfile.ZipFile(path, "w").close())
    yield file("a comment behind it", lambda path: path.write_bytes(good[:-2] + b"\5\0hello") and None)
    yield file("something before it", lambda path: path.write_bytes(b"hello" + good) and None)
    yield file("itself twice", lambda path: path.write_bytes(good + good[:1000]) and None)
    for name, content in (
        ("an empty file", b""), ("text", b"hello\n" * 100), ("HTML", b"<!doctype html><p>Not found"),
        ("a pointer of Git LFS", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"),
        ("a tar file", b"storages".ljust(100, b"\0") + b"0000644\0" + bytes(404)),
        ("the start of gzip", b"\x1f\x8b\x08" + bytes(99)),
    ):  # fmt: skip
        yield file(name, lambda path, content=content: path.write_bytes(content) and None)
    yield file("a folder", lambda path: path.mkdir())
    yield file("a link to itself", lambda path: path.symlink_to(path))
    yield file("/dev/zero", lambda path: path.symlink_to("/dev/zero"))
    yield file("a pipe", lambda path: os.mkfifo(path))


# Bits that changed --------------------------------------------------------------------------------------------------------


def flip(path: Path, seed: int) -> None:
    """Changes one bit of a file."""
    data = bytearray(path.read_bytes())
    place = random.Random(seed).randrange(8 * len(data))
    data[place // 8] ^= 1 << place % 8
    path.write_bytes(data)


def _flips(of: Material) -> Iterator[Case]:
    def one(kind: str, source: Path, seed: int, name: str = "") -> Case:
        def make(at: Path) -> Path:
            copied = at / source.name
            if source.is_dir():
                shutil.copytree(source, copied)
            else:
                shutil.copy(source, copied)
            flip(copied / name if name else copied, seed)
            return copied

        return Case("bits that changed", kind, f"{source.name}/{name} {seed}", make)

    for seed in range(40):
        yield one("checkpoint", of.checkpoint, seed)
    for seed in range(12):
        for name in ("model.safetensors", "vocab.txt", "config.json"):
            yield one("folder", of.folder, seed, name)
        for name in ("encoder.onnx", "decoder.onnx", "encoder.weights", "decoder.weights", "config.json"):
            yield one("folder", of.export, seed, name)
        yield one("link", of.link, seed)


# What files say -----------------------------------------------------------------------------------------------------------

ODD: dict[str, Any] = {
    "2 ** 70": 1 << 70, "10 ** 10": 10**10, "minus one": -1, "zero": 0, "many": "many", "???": "???", "true": True,
    "NaN": math.nan, "infinity": math.inf, "a list": [1], "a dict": {"a": 1}, "a third": 1 / 3, "code": "__import__('os')",
}  # fmt: skip
NETWORK = (
    "activation_fn", "dropout", "encoder_embed_dim", "encoder_ffn_embed_dim", "encoder_layers", "encoder_attention_heads",
    "decoder_embed_dim", "decoder_ffn_embed_dim", "decoder_layers", "decoder_attention_heads", "num_buckets",
    "relative_max_distance", "max_source_positions", "max_target_positions", "share_all_embeddings", "ngram",
)  # fmt: skip
TRAINING = ("nar_ratio", "semi_nar_ratio", "block_size", "disable_ngram_loss", "random_block_offset")


def _saved(kind: str, name: str, state: Any, **how: Any) -> Case:
    def make(at: Path) -> Path:
        torch.save(state, at / "bad.pt", **how)
        return at / "bad.pt"

    return Case(kind, "checkpoint", name, make)


def _settings(of: Material) -> Iterator[Case]:
    for part, names in (("model", NETWORK), ("criterion", TRAINING), ("task", ("source_lang", "left_pad_target"))):
        for name in names:
            for what, value in ODD.items():
                cfg = {**of.state["cfg"], part: {**of.state["cfg"][part], name: value}}
                yield _saved("settings of checkpoints", f"{part}.{name} {what}", {**of.state, "cfg": cfg})


def _states(of: Material) -> Iterator[Case]:
    values: dict[str, Any] = {
        "a number": 3, "a text": "x", "a list": [1, "a"], "a Namespace": argparse.Namespace(a=1), "numbers by number": {1: 2},
        "a weight": torch.zeros(2), "a dict of itself": {"model": {"model": {}}}, "nothing": None, "a list of nothing": [None],
    }  # fmt: skip
    for name in ("model", "cfg", "args", "task_state", "optimizer_history", "extra_state", "last_optimizer_state"):
        for what, value in values.items():
            if (name, what) == ("args", "nothing"):  # as it is
                continue
            yield _saved("parts of checkpoints", f"{name} is {what}", {**of.state, name: value})
    for name in ("model", "criterion", "task"):
        for what, value in values.items():
            cfg = {**of.state["cfg"], name: value}
            yield _saved("parts of checkpoints", f"cfg.{name} is {what}", {**of.state, "cfg": cfg})
    history = [{**of.state["optimizer_history"][-1], "num_updates": value} for value in ("many", 1.5, True, [])]
    for entry in history:
        yield _saved("parts of checkpoints", f"updates {entry['num_updates']!r}", {**of.state, "optimizer_history": [entry]})
    for dictionaries in (3, [], {}, "x"):
        task = {"dictionaries": dictionaries}
        yield _saved("parts of checkpoints", f"dictionaries {dictionaries!r}", {**of.state, "task_state": task})


TABLE, NORM = "decoder.embed_tokens.weight", "encoder.layers.0.final_layer_norm.weight"


def _spoiled_weights(weights: dict[str, torch.Tensor]) -> dict[str, dict[str, torch.Tensor]]:
    nan, infinite = weights[NORM].clone(), weights[TABLE].clone()
    nan[3], infinite[5, 5] = math.nan, -math.inf
    one = torch.zeros(1)
    found: dict[str, dict[str, torch.Tensor]] = {
        "NaN": {NORM: nan}, "infinity": {TABLE: infinite}, "whole numbers": {NORM: weights[NORM].to(torch.int32)},
        "bytes": {TABLE: weights[TABLE].to(torch.uint8)}, "true and false": {NORM: weights[NORM].bool()},
        "no rows": {TABLE: weights[TABLE][:0]}, "a row too many": {TABLE: torch.cat([weights[TABLE], weights[TABLE][:1]])},
        "one number": {NORM: one}, "a number of no dimension": {NORM: one[0]}, "three dimensions": {TABLE: weights[TABLE][None]},
        "an unknown weight": {"decoder.more": one}, "layer 999999999": {"encoder.layers.999999999.fc1.weight": one},
        "a layer of letters": {"encoder.layers.x.fc1.weight": one}, "an empty name": {"": one},
    }  # fmt: skip
    return {what: {**weights, **changed} for what, changed in found.items()} | {
        f"no {name}": {key: value for key, value in weights.items() if key != name}
        for name in (
            TABLE,
            NORM,
            "decoder.embed_positions.weight",
            "encoder.embed_positions.weight",
            "decoder.layers.0.fc1.weight",
        )
    }


def _weights(of: Material) -> Iterator[Case]:
    weights = of.state["model"]
    for what, changed in _spoiled_weights(weights).items():
        yield _saved("weights", f"{what}, checkpoint", {**of.state, "model": changed})
        yield _saved("weights", f"{what}, old checkpoint", {**of.state, "model": changed}, _use_new_zipfile_serialization=False)
    table = weights[TABLE]
    for what, value in (
        ("complex", table.to(torch.complex64)), ("sparse", table.to_sparse()), ("meta", table.to("meta")),
        ("quantized", torch.quantize_per_tensor(table, 0.1, 0, torch.qint8)),
        ("one number for billions", table[:1, :1].expand(1 << 20, 1 << 12)),
        ("float8", table.to(torch.float8_e4m3fn)), ("a text", "x"), ("a list", [1.0]), ("nothing", None),
    ):  # fmt: skip
        yield _saved("weights", what, {**of.state, "model": {**weights, TABLE: value}})
    stored = load_file(of.folder / "model.safetensors")
    for what, changed in _spoiled_weights(stored).items():

        def make(at: Path, changed=changed) -> Path:
            folder = _editable(of.folder, at)
            save_file({name: value.contiguous() for name, value in changed.items()}, folder / "model.safetensors")
            return folder

        yield Case("weights", "folder", f"{what}, folder", make)


def _editable(source: Path, at: Path, **changes: Any) -> Path:
    """A copy without checksums, as of older versions, with another config.json."""
    folder = shutil.copytree(source, at / source.name)
    config = json.loads((folder / "config.json").read_text())
    config.pop("sha256", None)
    (folder / "config.json").write_text(json.dumps({**config, **changes}))
    return folder


_RAW_JSON = {
    "100,000 deep": b"[" * 100_000, "objects 50,000 deep": b'{"a":' * 50_000, "a list": b"[]", "null": b"null", "empty": b"",
    "not UTF-8": b"\xff\xfe{}", "a number of 5,000 digits": b'{"version": ' + b"9" * 5000 + b"}", "a text": b'"x"',
    "5 MB": b'{"a": "' + b"x" * 5_000_000 + b'"}', "cut": b'{"format": "bang model", "ver', "zeros": bytes(2000),
}  # fmt: skip


def _configs(of: Material) -> Iterator[Case]:
    for source, keys in (
        (of.folder, ("architecture", "sizes", "criterion", "updates", "languages", "generation", "files", "version", "format")),
        (of.export, ("modes", "shares", "precision", "specials", "blocks", "num_buckets", "relative_max_distance",
                     "max_source_positions", "max_target_positions", "generation", "reduce_range", "files", "sha256")),
    ):  # fmt: skip
        for key in keys:
            for what, value in ODD.items():
                yield Case("config.json", "folder", f"{source.name}: {key} {what}",
                           lambda at, source=source, key=key, value=value: _editable(source, at, **{key: value}))  # fmt: skip
        for what, raw in _RAW_JSON.items():

            def make(at: Path, source=source, raw=raw) -> Path:
                folder = _editable(source, at)
                (folder / "config.json").write_bytes(raw)
                return folder

            yield Case("config.json", "folder", f"{source.name}: {what}", make)
    sizes = json.loads((of.folder / "config.json").read_text())["sizes"]
    for name in NETWORK:
        for what, value in ODD.items():
            yield Case("config.json", "folder", f"sizes: {name} {what}",
                       lambda at, name=name, value=value: _editable(of.folder, at, sizes={**sizes, name: value}))  # fmt: skip
    specials = json.loads((of.export / "config.json").read_text())["specials"]
    for wrong in (specials[::-1], [0, 1, 1 << 20], [-1, 1, 2], [specials[0]] * 3):
        yield Case("config.json", "folder", f"specials {wrong}", lambda at, wrong=wrong: _editable(of.export, at, specials=wrong))
    for what, name, other in (
        ("the decoder for the encoder", "encoder.onnx", "decoder.onnx"),
        ("the encoder for the decoder", "decoder.onnx", "encoder.onnx"),
        ("text for a graph", "decoder.onnx", "vocab.txt"), ("a graph for the vocabulary", "vocab.txt", "encoder.onnx"),
        ("other weights", "decoder.weights", "encoder.weights"),
    ):  # fmt: skip

        def swap(at: Path, name=name, other=other) -> Path:
            folder = _editable(of.export, at)
            shutil.copy(folder / other, folder / name)
            return folder

        yield Case("exports", "folder", what, swap)
    for name in ("config.json", "vocab.txt", "model.safetensors"):
        for what in ("/dev/zero", "pipe", "folder", "empty"):

            def odd(at: Path, name=name, what=what) -> Path:
                folder = _editable(of.folder, at)
                (folder / name).unlink()
                _odd_file(folder / name, what)
                return folder

            yield Case("config.json", "folder", f"{name} is {what}", odd)


def _odd_file(path: Path, what: str) -> None:
    if what == "/dev/zero":
        path.symlink_to(what)
    elif what == "pipe":
        os.mkfifo(path)
    elif what == "folder":
        path.mkdir()
    else:
        path.write_bytes(b"")


def _starts(of: Material) -> Iterator[Case]:
    config = json.loads((of.start / "config.json").read_text())
    for key in ("model_type", "num_attention_heads", "hidden_act", "position_embedding_type"):
        for what, value in ODD.items():
            yield Case(
                "starts", "start", f"{key} {what}", lambda at, key=key, value=value: _edited(of.start, at, {**config, key: value})
            )
    for what, raw in _RAW_JSON.items():

        def make(at: Path, raw=raw) -> Path:
            folder = shutil.copytree(of.start, at / "start")
            (folder / "config.json").write_bytes(raw)
            return folder

        yield Case("starts", "start", f"config.json {what}", make)
    weights = load_file(of.start / "model.safetensors")
    name = "encoder.layer.0.output.dense.weight"
    nan = weights[name].clone()
    nan[0, 0] = math.nan
    for what, changed in (
        ("NaN", {name: nan}), ("whole numbers", {name: weights[name].long()}), ("true and false", {name: weights[name].bool()}),
        ("one number", {name: torch.zeros(1)}),
        ("layer 999999999", {"encoder.layer.999999999.output.dense.weight": nan}),
        ("an unknown weight", {"encoder.layer.0.more": torch.zeros(1)}),
    ):  # fmt: skip

        def spoil(at: Path, changed=changed) -> Path:
            folder = shutil.copytree(of.start, at / "start")
            save_file({**weights, **changed}, folder / "model.safetensors")
            return folder

        yield Case("starts", "start", what, spoil)
    own = of.state["model"]
    for what, state in (
        ("a Namespace for cfg", {"model": own, "cfg": argparse.Namespace(model=3)}),
        ("a list for cfg", {"model": own, "cfg": [1]}),
        ("whole numbers as names", {"model": {1: own[NORM]}}), ("names without weights", {"model": {"a": 1}}),
        ("a number", 3),
        ("an odd number of heads", {"model": own, "cfg": {"model": {"encoder_attention_heads": True}}}),
        ("10 ** 10 distances", {"model": own, "cfg": {"model": {"relative_max_distance": 10**10}}}),
        ("args as a number", {"model": {"a": torch.zeros(1)}, "args": 3}),
    ):  # fmt: skip
        yield _saved("starts", what, state)._replace(way="start")


def _edited(source: Path, at: Path, config: dict) -> Path:
    folder = shutil.copytree(source, at / "start")
    (folder / "config.json").write_text(json.dumps(config))
    return folder


# Data and texts -----------------------------------------------------------------------------------------------------------


def _binarized(of: Material) -> Iterator[Case]:
    name = next(path.name.removesuffix(".src.idx") for path in sorted(of.data.glob("test.*.src.idx")))

    def one(what: str, file: str, spoil: Callable[[bytes], bytes]) -> Case:
        def make(at: Path) -> Path:
            folder = shutil.copytree(of.data, at / "data")
            path = folder / f"{name}.{file}"
            path.write_bytes(spoil(path.read_bytes()))
            return folder

        return Case("binarized data", "data", f"{file} {what}", make)

    for side in ("src", "tgt"):
        for share in (0, 1, 5, 9):
            yield one(f"cut at {share} tenths", f"{side}.idx", lambda data, share=share: data[: len(data) * share // 10])
            yield one(f"cut at {share} tenths", f"{side}.bin", lambda data, share=share: data[: len(data) * share // 10])
        for file in (f"{side}.idx", f"{side}.bin"):
            yield one("of zeros", file, lambda data: bytes(len(data)))
            yield one("of ones", file, lambda data: b"\xff" * len(data))
            yield one("longer", file, lambda data: data + b"\0\0")
        for place in (0, 9, 17, 18, 25, 27, 40):
            yield one(f"with byte {place} changed", f"{side}.idx",
                      lambda data, place=place: data[:place] + bytes([data[place] ^ 0xF0]) + data[place + 1 :])  # fmt: skip
        yield one("with two billion texts", f"{side}.idx", lambda data: data[:18] + struct.pack("<Q", 1 << 31) + data[26:])
        yield one("with a negative length", f"{side}.idx", lambda data: data[:26] + struct.pack("<i", -5) + data[30:])


def _texts(of: Material) -> Iterator[Case]:
    lines = of.vocab.read_bytes().splitlines(keepends=True)

    def vocabulary(name: str, content: bytes) -> Case:
        return Case("vocabularies", "vocabulary", name, lambda at: (at / "vocab.txt").write_bytes(content) and at / "vocab.txt")

    for what, line in (
        ("a count of 5,000 digits", b"a " + b"9" * 5000 + b"\n"), ("a negative count", b"a -1\n"), ("no count", b"a\n"),
        ("not UTF-8", b"\xff 1\n"),
        ("a piece twice", lines[0]), ("a line of a megabyte", b"a" * (1 << 20) + b"\n"), ("a count with a point", b"a 1.5\n"),
    ):  # fmt: skip
        yield vocabulary(what, b"".join(lines) + line)
    yield vocabulary("without special pieces", b"a 1\nb 1\n")
    yield vocabulary("blank", b"\n")
    for what in ("/dev/zero", "pipe", "folder", "empty"):

        def odd(at: Path, what=what) -> Path:
            _odd_file(at / "vocab.txt", what)
            return at / "vocab.txt"

        yield Case("vocabularies", "vocabulary", what, odd)
    good = of.link.read_bytes()
    for what, content in (
        ("cut", good[: len(good) // 2]), ("empty", b""), ("of zeros", bytes(1000)), ("its first line alone", good[:76]),
        ("of another version", good.replace(b"bang link 1", b"bang link 9", 1)), ("longer", good + b"x"),
    ):  # fmt: skip
        yield Case(
            "links", "link", what, lambda at, content=content: (at / "link.bin").write_bytes(content) + 1 and at / "link.bin"
        )
