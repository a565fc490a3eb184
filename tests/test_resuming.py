"""What goes on from a checkpoint: every way in, whole files and stripped ones, and their dictionaries."""

import logging
import shutil

import pytest
import torch
from conftest import GOLDEN, ROOT, VOCAB_SMALL

from bang import starts
from bang.__main__ import main
from bang.deploy import pack
from bang.inference.trained_model import read_checkpoint
from bang.safety import checkpoints, hooks
from bang.text.vocabulary import fingerprint

CHECKPOINT = GOLDEN / "mixed" / "checkpoint.pt"
STILL = "--activation-fn gelu --lr-scheduler fixed --lr 0 --max-update 1".split()
"""A run whose one update changes nothing, so that its checkpoint holds the weights that it began with."""
WAYS = {
    "restore": "--restore-file", "finetune": "--finetune-from-model", "pretrained": "--load-from-pretrained-model", "again": None,
}  # fmt: skip


@pytest.fixture(scope="module")
def stripped(tmp_path_factory):
    """Checkpoints without a training's course: of bang unpack, as older versions of it wrote them, weights and options alone."""
    folder = tmp_path_factory.mktemp("stripped")
    main(["pack", str(CHECKPOINT), str(folder / "model"), "--vocab", str(VOCAB_SMALL)])
    main(["unpack", str(folder / "model"), str(folder / "unpacked.pt")])
    state = torch.load(folder / "unpacked.pt")
    torch.save({**state, "extra_state": {"metrics": [], "previous_training_time": 0}}, folder / "older.pt")
    torch.save({name: state[name] for name in ("cfg", "model")}, folder / "bare.pt")
    return folder


def begin(train_here, tmp_path, way, checkpoint, *arguments, **options):
    """A run that begins from a checkpoint, by one of the ways in; what it saved."""
    if way == "again":
        (tmp_path / "checkpoints").mkdir(exist_ok=True)
        shutil.copy(checkpoint, tmp_path / "checkpoints" / "checkpoint_last.pt")
    words = [WAYS[way], checkpoint] if WAYS[way] else []
    return torch.load(train_here(*STILL, *words, *arguments, **options) / "checkpoint_last.pt")


@pytest.mark.parametrize(
    "name, way", [("unpacked", "restore"), *(("older", way) for way in WAYS), ("bare", "restore"), ("bare", "again")]
)
def test_weights_go_on_with_a_new_optimizer(name, way, stripped, train_here, tmp_path, caplog):
    with caplog.at_level(logging.INFO):
        state = begin(train_here, tmp_path, way, stripped / f"{name}.pt")
    for weight, value in checkpoints.check(str(CHECKPOINT))["model"].items():
        assert torch.equal(state["model"][weight], value), weight
    assert state["optimizer_history"][-1]["num_updates"] == 1 and state["extra_state"]["train_iterator"]["epoch"] == 1
    told = [record.getMessage() for record in caplog.records if "no optimizer state" in record.getMessage()]
    assert len(told) == (way != "pretrained") and all(f"{name}.pt" in message or way == "again" for message in told)


def test_what_ships_can_be_resumed():
    """The shipped checkpoint is of an older version: its course is filled in where it is read."""
    state = hooks.load_checkpoint_to_cpu(str(ROOT / "models" / "debian-synopsis" / "checkpoint.pt"))
    assert state["extra_state"]["train_iterator"]["epoch"] == 1 and dict(state["extra_state"]["metrics"]) == {}
    assert state["optimizer_history"][-1]["num_updates"] == 1150


@pytest.mark.parametrize("name", ["older", "bare"])
def test_validation(name, stripped, cli, data_bin):
    cli("fairseq-validate", data_bin, "--task", "translation_bang", "--path", stripped / f"{name}.pt", "--batch-size", "16",
        "--valid-subset", "valid", "--cpu")  # fmt: skip


def average_as_fairseq(paths, path):
    """What fairseq's scripts/average_checkpoints.py does: sums by name, names in one order, all else of the first."""
    states = [torch.load(each, map_location="cpu") for each in paths]
    names = list(states[0]["model"])
    assert all(list(state["model"]) == names for state in states), "it refuses names in another order"
    mean = {}
    for name in names:
        total = sum(state["model"][name].float() for state in states)
        mean[name] = total / len(states)
    torch.save({**states[0], "model": mean}, path)


@pytest.mark.parametrize("first", ["unpacked", "trained"])
def test_means(first, stripped, train_here, tmp_path):
    """fairseq's and ours, of what bang unpack wrote and what fairseq-train did; the mean goes on like any other."""
    trained = train_here("--max-update", "1", "--activation-fn", "gelu") / "checkpoint_last.pt"
    paths = [stripped / "unpacked.pt", trained] if first == "unpacked" else [trained, stripped / "unpacked.pt"]
    average_as_fairseq(paths, tmp_path / "mean.pt")
    weights = torch.load(tmp_path / "mean.pt")["model"]
    for name, value in pack.read_average(paths, VOCAB_SMALL).weights.items():
        torch.testing.assert_close(value, weights[name])
    assert read_checkpoint(tmp_path / "mean.pt", VOCAB_SMALL).weights.keys() == weights.keys()
    shutil.rmtree(tmp_path / "checkpoints")
    reset = ["--reset-optimizer", "--reset-lr-scheduler", "--reset-meters", "--reset-dataloader"]
    state = begin(train_here, tmp_path, "restore", tmp_path / "mean.pt", *reset)
    assert all(torch.equal(state["model"][name], value) for name, value in weights.items())


@pytest.mark.parametrize("way", ["restore", "finetune", "again"])
def test_a_folder_is_no_checkpoint(way, stripped, train_here, tmp_path):
    """fairseq passes over it, and would train new weights."""
    if way == "again":
        shutil.copytree(stripped / "model", tmp_path / "checkpoints" / "checkpoint_last.pt")
    with pytest.raises(ValueError, match="is a folder; of one of bang pack, make a checkpoint with bang unpack") as refusal:
        train_here(*STILL, *([WAYS[way], stripped / "model"] if WAYS[way] else []))
    assert "\n" not in str(refusal.value)


@pytest.fixture(scope="module")
def other_data(data_bin, tmp_path_factory):
    """The golden pairs with a dictionary of as many pieces, two of them the other way around."""
    folder = shutil.copytree(data_bin, tmp_path_factory.mktemp("other") / "bin")
    lines = VOCAB_SMALL.read_text(encoding="utf-8").splitlines(keepends=True)
    lines[300], lines[301] = lines[301], lines[300]
    for side in ("src", "tgt"):
        (folder / f"dict.{side}.txt").write_text("".join(lines), encoding="utf-8")
    return folder


@pytest.mark.parametrize("way", WAYS)
def test_training_with_another_dictionary(way, stripped, other_data, train_here, tmp_path):
    """Refused in one line that names the checkpoint and the data, before anything is saved."""
    path = stripped / "unpacked.pt"
    with pytest.raises(ValueError, match="another dictionary than") as refusal:
        begin(train_here, tmp_path, way, path, data=other_data)
    said = str(refusal.value)
    named = tmp_path / "checkpoints" / "checkpoint_last.pt" if way == "again" else path
    assert "\n" not in said and str(named) in said and str(other_data) in said and "fairseq-preprocess" in said
    assert [p.name for p in tmp_path.rglob("*.pt")] == (["checkpoint_last.pt"] if way == "again" else [])


@pytest.mark.parametrize("command", ["fairseq-generate", "fairseq-validate"])
def test_decoding_with_another_dictionary(command, stripped, other_data, cli):
    path = stripped / "unpacked.pt"
    with pytest.raises(ValueError) as refusal:
        cli(command, other_data, "--task", "translation_bang", "--path", path, "--batch-size", "16", "--cpu")
    said = str(refusal.value)
    assert f"{other_data}: binarized with another dictionary than checkpoint {path} was trained with" in said and "\n" not in said


def test_berts_name_of_the_passage_separator_is_no_other_dictionary(stripped, make_model, tmp_path):
    """A start that was trained with BERT's own vocabulary, fine-tuned with [X_SEP] in the place of [unused1]."""
    model, state = make_model(activation_fn="gelu"), torch.load(stripped / "unpacked.pt")
    as_bert = ["[unused1]" if piece == "[X_SEP]" else piece for piece in model.encoder.dictionary.symbols]
    for pieces, serves in ((as_bert, True), (as_bert[::-1], False)):
        torch.save({**state, "task_state": {"dictionaries": fingerprint(pieces, pieces)}}, tmp_path / "start.pt")
        if serves:
            starts.load_into(model, str(tmp_path / "start.pt"), load_sep=True)
        else:
            with pytest.raises(ValueError, match="start.pt: trained with another dictionary than that of the model; binarize"):
                starts.load_into(model, str(tmp_path / "start.pt"))


@pytest.mark.slow
@pytest.mark.parametrize("precision", [[], ["--bf16"]])
def test_a_resumed_run_equals_one_that_never_stopped(precision, train_here, tmp_path):
    """36 updates, stopped behind the 12th amid an epoch: weights, float32 ones of bf16 too, and moments, bit by bit."""
    words = ["--batch-size", "7", "--dropout", "0.1", *precision, "--save-dir"]
    for folder, last in (("whole", 36), ("resumed", 12), ("resumed", 36)):
        train_here(*words, tmp_path / folder, "--max-update", last)
    whole, resumed = (torch.load(tmp_path / folder / "checkpoint_last.pt") for folder in ("whole", "resumed"))
    assert resumed["optimizer_history"][-1]["num_updates"] == 36
    different = [
        name
        for part in ("model", "last_optimizer_state")
        for (name, one), (_, other) in zip(tensors(whole[part]), tensors(resumed[part]), strict=True)
        if not torch.equal(one, other)
    ]
    assert not different and len(list(tensors(whole["last_optimizer_state"]))) > 2


def tensors(state, name=""):
    """All tensors in nested containers, with their names."""
    if torch.is_tensor(state):
        yield name, state
    elif isinstance(state, (dict, list)):
        for key, value in state.items() if isinstance(state, dict) else enumerate(state):
            yield from tensors(value, f"{name}.{key}")
