"""`bang pack` of several checkpoints: the mean of their weights, and which ones have none."""

import shutil

import pytest
import torch
from conftest import GOLDEN, VOCAB_SMALL

from bang.__main__ import main
from bang.deploy import pack
from bang.inference import trained_model
from bang.safety import checkpoints, files

CHECKPOINT = GOLDEN / "mixed" / "checkpoint.pt"


@pytest.fixture
def save_dir(tmp_path):
    """Three checkpoints of a run, and checkpoint_last.pt and checkpoint_best.pt, which are two of them again."""
    folder, state = tmp_path / "run", checkpoints.check(str(CHECKPOINT))
    folder.mkdir()
    for number, names in enumerate(
        (["checkpoint8.pt"], ["checkpoint9.pt", "checkpoint_best.pt"], ["checkpoint10.pt", "checkpoint_last.pt"])
    ):
        changed = dict(state, model={name: value + number * number for name, value in state["model"].items()})
        changed["optimizer_history"] = [dict(state["optimizer_history"][-1], num_updates=100 * number + 600)]
        for name in names:
            torch.save(changed, folder / name)
    shutil.copy(VOCAB_SMALL, folder / "dict.src.txt")  # found beside them
    return folder


def test_average_of_the_last_checkpoints(save_dir, tmp_path):
    main(["pack", "--last", "2", str(save_dir), str(tmp_path / "model")])
    found, given = trained_model.read_folder(tmp_path / "model"), checkpoints.check(str(CHECKPOINT))["model"]
    assert found.updates == 800 and "the mean of checkpoint" in (tmp_path / "model" / "README.md").read_text()
    for name, value in given.items():
        torch.testing.assert_close(found.weights[name], value + 2.5)  # (1 + 4) / 2
    with pytest.raises(SystemExit, match="checkpoints of 3 different updates, 4 are to be averaged"):
        main(["pack", "--last", "4", str(save_dir), str(tmp_path / "other")])
    assert not (tmp_path / "other").exists()


def test_average_with_what_a_run_started_from(save_dir, tmp_path):
    first, last = (next(save_dir.glob(f"checkpoint*{end}.pt")) for end in ("_best", "_last"))
    main(["pack", str(last), str(tmp_path / "model"), "--average-with", str(first)])
    found = trained_model.read_folder(tmp_path / "model")
    states = [checkpoints.check(str(path)) for path in (first, last)]
    assert found.updates == states[1]["optimizer_history"][-1]["num_updates"] != states[0]["optimizer_history"][-1]["num_updates"]
    for name, value in found.weights.items():
        torch.testing.assert_close(value, sum(state["model"][name] for state in states) / 2)


def changed(path, **changes):
    """A copy of the checkpoint beside `path` with other options; those of fairseq 0.9's, flat."""
    state = files.read(str(CHECKPOINT))
    for name, value in changes.items():
        assert hasattr(state["args"], name)
        setattr(state["args"], name, value)
    torch.save(state, path)
    return path


def test_a_mean_of_models_that_were_trained_otherwise(tmp_path):
    """Rates, streams and the name of the architecture are no sizes; the last one's stay."""
    rates = dict(dropout=0.3, attention_dropout=0.2, activation_dropout=0.1, ngram=3)
    other = changed(tmp_path / "other.pt", arch="bang_ar_nar_mixed_base", **rates)
    for paths in ([CHECKPOINT, other], [other, CHECKPOINT]):
        mean, last = pack.read_average(paths, VOCAB_SMALL), trained_model.read_checkpoint(paths[-1], VOCAB_SMALL)
        assert (mean.architecture, mean.sizes) == (last.architecture, last.sizes)
        for name, value in last.weights.items():
            torch.testing.assert_close(mean.weights[name], value)


@pytest.mark.parametrize("changes, message", [
    (dict(encoder_attention_heads=2), r"it has --encoder-attention-heads 2 \(here 4\); average checkpoints of one run"),
    (dict(activation_fn="relu", dropout=0.3), r"it has --activation-fn relu \(here gelu\);"),
])  # fmt: skip
def test_a_mean_of_models_that_compute_otherwise(changes, message, tmp_path):
    other = changed(tmp_path / "other.pt", **changes)
    with pytest.raises(ValueError, match=f"^checkpoint {other}: cannot be averaged with {CHECKPOINT}, {message}") as refusal:
        pack.read_average([other, CHECKPOINT], VOCAB_SMALL)
    assert "\n" not in str(refusal.value)


def test_a_mean_of_models_of_different_dictionaries(tmp_path):
    """Each found beside its checkpoint, with as many pieces."""
    lines = VOCAB_SMALL.read_text(encoding="utf-8").splitlines(keepends=True)
    paths = []
    for name, first in (("a", lines[300:302]), ("b", lines[301:299:-1])):
        (tmp_path / name).mkdir()
        (tmp_path / name / "dict.src.txt").write_text("".join([*lines[:300], *first, *lines[302:]]), encoding="utf-8")
        paths.append(shutil.copy(CHECKPOINT, tmp_path / name))
    assert pack.read_average([paths[0], paths[0]])
    with pytest.raises(ValueError, match="a/checkpoint.pt: cannot be averaged with .*b/checkpoint.pt, .* another dictionary$"):
        pack.read_average(paths)


def test_the_last_checkpoints_beside_a_stripped_one(save_dir, tmp_path, caplog):
    """Weights and options alone do not say when they were: left out, and said."""
    state = files.read(str(save_dir / "checkpoint8.pt"))
    torch.save({name: state[name] for name in ("args", "model")}, save_dir / "checkpoint_stripped.pt")
    found = pack.last_checkpoints(save_dir, 3)
    assert [path.name for path in found] == ["checkpoint8.pt", "checkpoint_best.pt", "checkpoint_last.pt"]
    assert caplog.messages == [f"{save_dir / 'checkpoint_stripped.pt'}: does not say how many updates it has seen; left out"]
    main(["pack", str(save_dir / "checkpoint_stripped.pt"), str(tmp_path / "model")])
    assert trained_model.read_folder(tmp_path / "model").updates == 0
