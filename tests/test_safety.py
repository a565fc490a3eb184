"""Checkpoints of strangers: every way in refuses them in one line, before fairseq builds, runs or opens anything."""

import argparse
import hashlib
import io
import logging
import math
import os
import pickle
import shutil
import tarfile
import time
from functools import partial

import numpy as np
import pytest
import torch
from attack import corpus
from conftest import GOLDEN, ROOT, TINY, VOCAB_SMALL, hypotheses, without_sums
from fairseq import checkpoint_utils, file_utils, models, utils
from fairseq.distributed import utils as distributed_utils
from fairseq.logging import meters
from omegaconf import OmegaConf
from support import memory

from bang import Bang, starts
from bang.errors import UserError
from bang.inference.trained_model import read_checkpoint, size_options
from bang.network.model import BangModel
from bang.safety import description, files, settings

MIXED = GOLDEN / "mixed" / "checkpoint.pt"


@pytest.fixture(autouse=True)
def nothing_else_allowed(monkeypatch):
    """Each test begins with what the package itself allows."""
    monkeypatch.setattr(settings, "_allowed", {kind: set() for kind in settings.CLASSES})


@pytest.fixture
def trace(tmp_path):
    """The file that hostile settings try to make."""
    return tmp_path / "ran"


@pytest.fixture
def old():
    """A good checkpoint as fairseq 0.9 wrote it."""
    return files.read(str(MIXED))


@pytest.fixture
def new(golden_states):
    """A good checkpoint as today's fairseq writes it."""
    state = dict(golden_states["mixed"])
    container = OmegaConf.to_container(state["cfg"], resolve=True, enum_to_str=True)
    return {**state, "args": None, "cfg": container, "task_state": {}}


def code(trace):
    """Python that leaves a trace, for options that fairseq evaluates."""
    return f"[(8, 3)] * len([open({str(trace)!r}, 'w')])"


class Reduced:
    """Pickles as whatever `__reduce__` shall give."""

    def __init__(self, *parts):
        self.parts = parts

    def __reduce__(self):
        return self.parts


def forged_type():
    """A numpy type with an object field, whose flags deny it: its bytes are taken for pointers."""
    return Reduced(np.dtype, ("V8", False, True), (3, "|", None, ("f",), {"f": (np.dtype("O"), 0)}, 8, 1, 0))


SCALAR, RECONSTRUCT = np.float64(0).__reduce__()[0], np.zeros(1).__reduce__()[0]


def hostile_settings(old, new, trace):
    """{what is wrong: checkpoint of plain values}"""
    layers = {"encoder_layers": code(trace), "decoder_layers": code(trace), "decoder_attention": "True"}

    def flat(**options):
        return {**old, "args": argparse.Namespace(**{**vars(old["args"]), **options})}

    def section(kind, **options):
        return {**new, "cfg": {**new["cfg"], kind: options}}

    own = {kind: new["cfg"][kind] for kind in ("model", "task", "criterion")}
    return {
        "its model 'fconv'": flat(arch="fconv", **layers),
        "its model 'wav2vec2'": section("model", _name="wav2vec2", conv_feature_layers=code(trace)),
        "its model 'fconv_self_att'": section("model", _name="fconv_self_att", pretrained=code(trace)),
        "its model 'None'": section("model", fconv=layers),  # fairseq takes a single key for the name
        "its model 'nothing'": flat(arch="nothing"),
        "its model '['": section("model", **{**own["model"], "_name": "["}),
        "its task 'translation'": flat(task="translation"),
        "its task 'audio_pretraining'": section("task", _name="audio_pretraining", data="/"),
        "its task 'None'": section("task", task="audio_pretraining"),
        "its criterion 'ctc'": section("criterion", _name="ctc", wer_args=code(trace)),
        "its setting activation_fn": section("model", **{**own["model"], "activation_fn": code(trace)}),
        "its setting encoder_layers": flat(encoder_layers=code(trace)),
        "its model setting encoder_layers": section("model", **{**own["model"], "encoder_layers": "many"}),
        "its setting source_lang": section("task", **{**own["task"], "source_lang": "${oc.env:HOME}"}),
        "its setting dropout": flat(dropout=meters.AverageMeter()),
        "no options by name": {**new, "cfg": ["model"]},
        "more than weights": {**new, "model": {"encoder.version": "1"}},
        "lacks 'model'": {**new, "model": None},
        "that fairseq can use": {**old, "optimizer_history": [{}]},
    }


def hostile_files(good, trace):
    """{case: (checkpoint, how torch.save writes it, what is wrong)}"""
    more, unreadable = "refused, it holds more than weights and settings", "cannot be read"
    harm = {**good, "args": Reduced(os.system, (f"touch {trace}",))}
    pointers = b"\x41" * 8

    def array(kind, shape=(1,)):
        return {**good, "extra_state": Reduced(RECONSTRUCT, (np.ndarray, (0,), b"b"), (1, shape, kind, False, pointers))}

    return {
        "a call": (harm, {}, "it holds posix.system"),
        "eval": ({**good, "args": Reduced(eval, (code(trace),))}, {}, "it holds eval"),
        "old format": (harm, {"_use_new_zipfile_serialization": False}, "it holds posix.system"),
        "newer pickle": (harm, {"pickle_protocol": 4}, unreadable),
        "pointers": (array(forged_type()), {}, more),
        "pointer": ({**good, "extra_state": Reduced(SCALAR, (forged_type(), pointers))}, {}, more),
        "objects": ({**good, "extra_state": np.array([1, "a"], dtype=object)}, {}, more),
        "dates": ({**good, "extra_state": np.array(["2020-01-01"], dtype="M8[D]")}, {}, more),
        "shape beyond its bytes": (array(np.dtype("f8"), (1 << 40,)), {}, unreadable),
    }


def refused(call, path):
    """The one line with which `call` refuses `path`."""
    with pytest.raises(ValueError) as error:
        call()
    line = str(error.value)
    assert str(path) in line and "\n" not in line and "weights_only" not in line and "torch" not in line, line
    return line


@pytest.fixture
def command(cli, data_bin, monkeypatch):
    """Runs a command line of fairseq on the golden pairs in this process; what it prints."""
    monkeypatch.setattr(logging.getLogger(), "handlers", [])  # fairseq's, which write to this test's output
    return lambda program, *options: cli(f"fairseq-{program}", data_bin, "--num-workers", "0", *options)


TRAIN = (
    "--task translation_bang --arch bang_ar_nar_mixed --criterion ngram_language_loss_NAR_mixed --nar-ratio 0.5 --ngram 1 "
    "--optimizer adam --lr 0.001 --lr-scheduler inverse_sqrt --max-tokens 600 --max-update 1 --max-source-positions 512 "
    "--max-target-positions 512 --activation-fn gelu --cpu"
).split() + TINY  # fmt: skip


@pytest.fixture
def ways(command, data_bin, tmp_path):
    """{way in: what to call with the path of a checkpoint}"""
    decode = ["--task", "translation_bang", "--batch-size", "24", "--source-lang", "src", "--target-lang", "tgt", "--path"]
    languages = ["--source-lang", "src", "--target-lang", "tgt", "--path"]

    def resume(path):
        (tmp_path / "run").mkdir(exist_ok=True)
        shutil.copy(path, tmp_path / "run" / "checkpoint_last.pt")
        command("train", *TRAIN, "--save-dir", tmp_path / "run")

    def hub(path):
        BangModel.from_pretrained(str(path.parent), path.name, str(data_bin))

    return {
        "generate": lambda path: command("generate", *decode, path),
        "ensemble": lambda path: command("generate", *decode, f"{MIXED}:{path}"),
        "language model": lambda path: command("generate", *decode, MIXED, "--lm-path", path),
        "interactive": lambda path: command("interactive", *decode, path, "--buffer-size", "24"),
        "validate": lambda path: command("validate", "--task", "translation_bang", "--batch-size", "8", *languages, path),
        "resume": resume,
        "restore": lambda path: command("train", *TRAIN, "--save-dir", tmp_path / "run", "--restore-file", path),
        "finetune": lambda path: command("train", *TRAIN, "--save-dir", tmp_path / "run", "--finetune-from-model", path),
        "pretrained": lambda path: command("train", *TRAIN, "--save-dir", tmp_path / "run", "--load-from-pretrained-model", path),
        "hub": hub,
        "loader": lambda path: checkpoint_utils.load_model_ensemble_and_task([str(path)], {"data": str(data_bin)}),
    }


def test_the_corpus_is_hostile(old, new, trace):
    """fairseq itself runs it: what the other tests refuse would have left its trace."""
    states = hostile_settings(old, new, trace)
    with pytest.raises(TypeError):
        models.build_model(states["its model 'fconv'"]["args"], argparse.Namespace(source_dictionary=None))
    assert trace.exists()
    trace.unlink()
    pickle.loads(pickle.dumps(hostile_files(new, trace)["a call"][0]["args"]))
    assert trace.exists()


def test_settings_that_name_what_may_not_be_built(old, new, trace, tmp_path):
    for reason, state in hostile_settings(old, new, trace).items():
        path = tmp_path / "bad.pt"
        torch.save(state, path)
        assert reason in refused(partial(checkpoint_utils.load_checkpoint_to_cpu, str(path)), path)
    assert not trace.exists()


def test_files_that_hold_more_than_data(new, trace, tmp_path):
    for state, how, reason in hostile_files(new, trace).values():
        path = tmp_path / "bad.pt"
        torch.save(state, path, **how)
        assert reason in refused(partial(checkpoint_utils.load_checkpoint_to_cpu, str(path)), path)
    assert not trace.exists()


@pytest.mark.parametrize(
    "way",
    "generate ensemble interactive validate resume restore finetune pretrained hub loader".split() + ["language model"],
)
def test_every_way_in_refuses(way, ways, old, new, trace, tmp_path):
    path = tmp_path / "bad.pt"
    fconv = hostile_settings(old, new, trace)["its model 'fconv'"]
    pointers = hostile_files(new, trace)["pointers"][0]
    for state, reason in ((fconv, "its model 'fconv'"), (pointers, "refused, it holds more")):
        torch.save(state, path)
        shown = tmp_path / "run" / "checkpoint_last.pt" if way == "resume" else path
        assert reason in refused(lambda: ways[way](path), shown)
    assert not trace.exists()


@pytest.mark.parametrize("way", ["generate", "validate", "resume", "hub"])
def test_every_way_in_takes_good_ones(way, ways, new, tmp_path):
    """The corpus is refused for what it is, not because nothing gets in; options as omegaconf holds them get in too."""
    path = tmp_path / "good.pt"
    torch.save({**new, "cfg": OmegaConf.create(new["cfg"]), "last_optimizer_state": None}, path)
    ways[way](path)


def test_what_a_checkpoint_names_is_not_opened(new, trace, tmp_path, data_bin):
    """Its user-dir, data, word pieces, language model and start: gone; numbers of those sections stay."""
    evil = tmp_path / "evil"
    evil.mkdir()
    (evil / "__init__.py").write_text(f"open({str(trace)!r}, 'w')")
    cfg = {
        **new["cfg"],
        "common": {**new["cfg"]["common"], "user_dir": str(evil), "seed": 5},
        "generation": {**new["cfg"]["generation"], "lm_path": str(evil), "replace_unk": str(evil), "beam": 3},
        "task": {**new["cfg"]["task"], "data": str(evil), "task": "audio_pretraining", "restore_file": "evil"},
        "model": {**new["cfg"]["model"], "load_from_pretrained_model": "evil"},
        "bpe": {"_name": "sentencepiece", "sentencepiece_model": str(evil)},
        "tokenizer": "moses",
        "checkpoint": {**new["cfg"]["checkpoint"], "finetune_from_model": str(evil)},
    }
    path = tmp_path / "model.pt"
    torch.save({**new, "cfg": cfg}, path)
    loaded = checkpoint_utils.load_checkpoint_to_cpu(str(path))["cfg"]
    assert "evil" not in str(loaded) and "moses" not in str(loaded) and "audio" not in str(loaded)
    assert (loaded.common.seed, loaded.generation.beam, loaded.model.encoder_layers) == (5, 3, 2)
    with pytest.raises(ValueError, match="no data folder.*arg_overrides"):
        checkpoint_utils.load_model_ensemble_and_task([str(path)])
    BangModel.from_pretrained(str(tmp_path), "model.pt", str(data_bin))
    assert not trace.exists()


def test_options_as_omegaconf_holds_them(new, tmp_path):
    path = tmp_path / "options.pt"
    torch.save({"cfg": OmegaConf.create({"a": {"b": [1, "x", None, 0.5, True]}, "c": "${a}", "d": "???"})}, path)
    assert files.read(str(path))["cfg"] == {"a": {"b": [1, "x", None, 0.5, True]}, "c": "${a}", "d": "???"}
    for version in ("2.0.6", "2.1.2"):  # what fairseq 0.10 to 0.12 ran with; each wrote its own fields
        found = files.read(str(GOLDEN / "options" / f"omegaconf_{version}.pt"))
        assert found == {"cfg": {"a": 1, "b": {"c": [1, "x", None], "d": 0.5}}}
    for old_format in (True, False):
        torch.save({**new, "cfg": OmegaConf.create(new["cfg"])}, path, _use_new_zipfile_serialization=not old_format)
        loaded = checkpoint_utils.load_checkpoint_to_cpu(str(path))["cfg"]
        torch.save(new, path)
        assert loaded == checkpoint_utils.load_checkpoint_to_cpu(str(path))["cfg"]
        assert loaded.model.activation_fn == "gelu"


def test_numbers_come_back_as_they_were(tmp_path):
    averages = meters.AverageMeter()
    averages.val = np.array([3, 1])
    values = {
        "types": [np.arange(3).astype(kind) for kind in ("b1", "i1", "u2", "i4", ">i4", "i8", "f2", "f4", ">f8", "c8")],
        "shapes": [np.zeros(()), np.arange(6.0).reshape(2, 3), np.asfortranarray(np.ones((2, 3)))],
        "scalars": (np.float64(0.1), np.int64(-3), np.bool_(True)),
    }
    torch.save({**values, "meter": averages}, tmp_path / "numbers.pt")
    found = files.read(str(tmp_path / "numbers.pt"))
    for a, b in zip(sum(map(list, values.values()), []), sum((list(found[name]) for name in values), [])):
        assert type(a) is type(b) and a.dtype == b.dtype and np.array_equal(a, b)
    assert found["meter"].val.tolist() == [3, 1] and type(found["meter"].val) is np.ndarray


def test_memory_is_never_taken_at_a_files_word(tmp_path):
    """numpy's own array type, called by the file, would hand out memory as it is."""
    torch.save({"leak": Reduced(np.ndarray, ((1 << 20,),))}, tmp_path / "leak.pt")
    assert files.read(str(tmp_path / "leak.pt")) == {"leak": None}


def test_the_allow_list_ends_with_the_reading(old):
    before = set(torch.serialization.get_safe_globals())
    files.read(str(MIXED))
    assert set(torch.serialization.get_safe_globals()) == before
    with pytest.raises(pickle.UnpicklingError):
        torch.load(MIXED)


def test_what_workers_tell_each_other(old, new, monkeypatch):
    """The bytes that fairseq's first worker sends, read as the others read them."""
    state = checkpoint_utils.load_checkpoint_to_cpu(str(MIXED))
    sent = []
    monkeypatch.setattr(distributed_utils, "get_rank", lambda group: 0)
    monkeypatch.setattr(distributed_utils, "broadcast", lambda tensor, src, group: sent.append(tensor.clone()))
    weights, tensors = dict(state["model"]), []
    distributed_utils._split_tensors_from_obj(state, tensors)
    monkeypatch.setattr(distributed_utils, "broadcast_tensors", lambda *args: tensors)
    distributed_utils.broadcast_object(state, 0, None, torch.device("cpu"))
    monkeypatch.setattr(distributed_utils, "get_rank", lambda group: 1)
    monkeypatch.setattr(distributed_utils, "broadcast", lambda tensor, src, group: tensor.copy_(sent.pop(0)))
    received = distributed_utils.broadcast_object(None, 0, None, torch.device("cpu"))
    assert all(torch.equal(received["model"][name], weights[name]) for name in weights)
    assert received["optimizer_history"] == state["optimizer_history"]
    assert received["args"] == state["args"] and received["cfg"] == OmegaConf.to_container(state["cfg"])


def test_other_models_where_the_user_names_them(command, dictionary, new, tmp_path, data_bin):
    """An ensemble with fairseq's transformer, on purpose; its options are literals even so."""
    config = {
        **{name: new["cfg"]["model"][name] for name in new["cfg"]["model"] if name.startswith(("encoder_", "decoder_"))},
        "_name": "transformer", "share_all_embeddings": True, "max_source_positions": 512, "max_target_positions": 512,
    }  # fmt: skip
    cfg = {**new["cfg"], "model": config, "criterion": {"_name": "cross_entropy"}}
    cfg["task"] = {**cfg["task"], "_name": "translation"}
    task = argparse.Namespace(source_dictionary=dictionary, target_dictionary=dictionary)
    weights = models.build_model(OmegaConf.create(config), task).state_dict()
    path = tmp_path / "other.pt"
    torch.save({**new, "cfg": cfg, "model": weights}, path)
    decode = ["--task", "translation_bang", "--batch-size", "24", "--beam", "2", "--max-len-b", "8", "--path", f"{MIXED}:{path}"]
    assert "--other-models" in refused(lambda: command("generate", *decode), path)
    log = command("generate", *decode, "--other-models", "transformer")
    assert sorted(hypotheses(log)) == list(range(24))
    torch.save({**new, "cfg": {**cfg, "model": {**config, "adaptive_softmax_cutoff": code("x")}}, "model": weights}, path)
    line = refused(lambda: command("generate", *decode, "--other-models", "transformer"), path)
    assert "adaptive_softmax_cutoff is no plain value" in line


def test_an_archive_stays_in_its_folder(tmp_path):
    path = tmp_path / "model.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        member = tarfile.TarInfo("../escaped")
        member.size = 1
        archive.addfile(member, io.BytesIO(b"x"))
    outside = getattr(tarfile, "OutsideDestinationError", ValueError)  # an older Python refuses the archive
    with pytest.raises(outside):
        file_utils.load_archive_file(str(path))


def test_an_archive_is_refused_where_python_cannot_check_it(tmp_path, monkeypatch):
    """Debian 12's Python 3.11.2 has no extraction filters."""
    monkeypatch.delattr(tarfile, "data_filter", raising=False)
    with pytest.raises(ValueError, match="model.tar.gz: Python .* cannot unpack an archive safely; unpack it yourself"):
        file_utils.tarfile.open(str(tmp_path / "model.tar.gz"), "r:gz")


@pytest.mark.parametrize("name", [
    "lists in lists", "tuples as a key", "a list in itself", "builtins.bytearray(2,000,000,000)", "one text copied 2,000 times",
    "a dict of 20,000 items copied 5,000 times", "refers to a block of two billion numbers", "a million dicts",
])  # fmt: skip
def test_small_files_cost_what_they_are_long(name, tmp_path):
    """Seconds of this process alone: other work on the machine does not count."""
    pickled = corpus.SAVED + corpus.pickles()[name] + b"."
    for write in (corpus._archive, corpus._old_file):
        path = write(tmp_path / "bad.pt", pickled)
        memory.forget()
        before, start = memory.most(), time.process_time()
        line = refused(partial(files.read, str(path)), path)
        assert "refused, it" in line or "cannot be read; truncated" in line
        assert time.process_time() - start < 1.5 and memory.most() - before < 200


def test_large_checkpoints_are_within_the_limits(new, tmp_path):
    """2,000 weights and their optimizer's averages: more than any model of fairseq's, half of what is taken."""
    weights = {f"encoder.layers.{number}.a.long.name.of.a.weight": torch.zeros(2, 3) for number in range(2000)}
    averages = {number: {"step": 3, "exp_avg": torch.zeros(2, 3), "exp_avg_sq": torch.zeros(2, 3)} for number in range(2000)}
    state = {**new, "model": weights, "last_optimizer_state": {"state": averages, "param_groups": [{"lr": 0.1}]}}
    for old_format in (True, False):
        torch.save(state, tmp_path / "large.pt", _use_new_zipfile_serialization=not old_format)
        assert files.read(str(tmp_path / "large.pt"))["model"].keys() == weights.keys()


def test_one_number_for_billions(new, tmp_path):
    """A view that repeats one number takes no memory until it is copied."""
    path = tmp_path / "bad.pt"
    torch.save({**new, "model": {"a": torch.zeros(1).expand(1 << 40)}}, path)
    assert "another size than it has" in refused(partial(files.read, str(path)), path)


def test_damaged_checkpoints_are_noticed(new, tmp_path):
    """By zip's own checksums where the file is one, and by a file of sha256sum beside it."""
    path = tmp_path / "model.pt"
    for old_format in (False, True):
        torch.save(new, path, _use_new_zipfile_serialization=not old_format)
        whole = bytearray(path.read_bytes())
        whole[len(whole) // 2] ^= 4  # in the weights
        if old_format:
            (tmp_path / "model.pt.sha256").write_text(f"{hashlib.sha256(path.read_bytes()).hexdigest()}  model.pt\n")
            assert files.read(str(path))["model"]
        path.write_bytes(whole)
        assert "damaged: its checksum does not match; copy it again" in refused(partial(files.read, str(path)), path)


def test_the_shipped_model_has_a_checksum():
    shipped = ROOT / "models" / "debian-synopsis" / "checkpoint.pt"
    assert (
        shipped.parent / "checkpoint.pt.sha256"
    ).read_text() == f"{hashlib.sha256(shipped.read_bytes()).hexdigest()}  {shipped.name}\n"


@pytest.mark.parametrize("spoil, message", [
    (lambda x: x.index_fill_(0, torch.tensor([3]), math.nan), "holds numbers that are not finite"),
    (lambda x: x.fill_(-math.inf), "holds numbers that are not finite"),
    (lambda x: x.int(), "holds int32, and weights are real numbers"),
    (lambda x: x.bool(), "holds bool, and weights are real numbers"),
])  # fmt: skip
def test_weights_that_are_no_numbers(spoil, message, new, tmp_path, data_bin):
    name, path = "decoder.layers.0.fc2.bias", tmp_path / "bad.pt"
    torch.save({**new, "model": {**new["model"], name: spoil(new["model"][name].clone())}}, path)
    for way in (lambda: read_checkpoint(path, VOCAB_SMALL), lambda: starts.read(str(path)),
                lambda: checkpoint_utils.load_model_ensemble_and_task([str(path)], {"data": str(data_bin)})):  # fmt: skip
        assert f"{name} {message}" in refused(way, path)


@pytest.mark.parametrize("name, value, message", [
    ("encoder_layers", 1 << 70, "encoder_layers is 1180591620717411303424, and has to be a whole number from 1 to 1000"),
    ("decoder_layers", 900, "decoder_layers is 900, and its weights are of 2"),
    ("relative_max_distance", 10**10, "relative_max_distance is 10000000000, and has to be"),
    ("encoder_embed_dim", 1 << 16, "encoder_embed_dim is 65536, and its weights are of 48"),
    ("decoder_attention_heads", 8, "its weights have 128 relative terms, not 256"),
    ("max_target_positions", 1 << 20, "max_target_positions is 1048576, and its weights are of"),
    ("dropout", math.nan, "dropout is nan, and has to be a number from 0 to 1"),
    ("share_all_embeddings", "yes", "share_all_embeddings"),
])  # fmt: skip
def test_sizes_are_compared_before_anything_is_built(name, value, message, new, tmp_path, monkeypatch):
    monkeypatch.setattr(BangModel, "build_model", None)
    path = tmp_path / "bad.pt"
    torch.save({**new, "cfg": {**new["cfg"], "model": {**new["cfg"]["model"], name: value}}}, path)
    assert message in refused(partial(read_checkpoint, path, VOCAB_SMALL), path)


def test_the_schema_has_the_networks_options():
    options = set(size_options("bang_ar_nar_mixed"))
    assert options <= description.OPTIONS.keys() and set(utils.get_available_activation_fns()) == set(description.ACTIVATIONS)


@pytest.mark.parametrize("options", [{"mode": "ar", "beam": 3}, {"mode": "ar", "beam": 1}, {"mode": "nar"}])
def test_finite_weights_that_compute_no_numbers(options, exported, tmp_path):
    """What they overflow to would be written as texts, or find no hypothesis: in torch and in the ONNX runtime alike."""
    state = files.read(str(GOLDEN / "mixed" / "checkpoint.pt"))
    state["model"]["encoder.layers.0.fc1.weight"] = torch.full_like(state["model"]["encoder.layers.0.fc1.weight"], 3e38)
    torch.save(state, tmp_path / "large.pt")
    folder = without_sums(shutil.copytree(exported, tmp_path / "export"))
    size = (folder / "encoder.weights").stat().st_size
    (folder / "encoder.weights").write_bytes(np.full(size // 4, 3e38, np.float32).tobytes())
    for path, vocab in ((tmp_path / "large.pt", VOCAB_SMALL), (folder, None)):
        model = Bang.load(path, vocab=vocab)
        with pytest.raises(UserError, match="computes no numbers"):
            model.generate("a library", max_len=6, **options)
