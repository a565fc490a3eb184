"""The precision that the recipes take."""

import os
import sys

import pytest
import torch

from bang.recipes import precision


@pytest.mark.parametrize("bf16,option", [(0.5, "--bf16"), (0.9, ""), (2.0, "")])
def test_bf16_where_it_pays(bf16, option, monkeypatch):
    seconds = {torch.float32: 1.0, torch.bfloat16: bf16}
    monkeypatch.setattr(precision, "matmul_seconds", seconds.__getitem__)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert precision.training_option() == option
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert precision.training_option() == "--fp16"


def test_command_prints_what_fairseq_takes(run):
    assert run(sys.executable, "-m", "bang.recipes.precision").strip() in ("", "--bf16", "--fp16")
    assert precision.matmul_seconds(torch.float32) > 0


@pytest.mark.parametrize(
    "trained, gpus, option",
    [("", 0, ""), ("--bf16", 0, "--bf16"), ("--fp16", 0, "--bf16"), ("--fp16", 1, "--fp16"), ("", 1, ""),
     ("--memory-efficient-fp16", 1, "--memory-efficient-fp16"), ("--amp", 1, "--amp")],
)  # fmt: skip
def test_a_run_that_goes_on_keeps_its_precision(trained, gpus, option, tmp_path, monkeypatch):
    """Whatever is measured now: its optimizer fits no other."""
    common = {name.replace("-", "_"): f"--{name}" == trained for name in precision.OPTIMIZERS}
    torch.save(
        {"model": {}, "cfg": {"common": {**common, "fp16": common["fp16"] or "fp16" in trained}}}, tmp_path / "checkpoint_last.pt"
    )
    for bf16 in (0.5, 2.0):
        monkeypatch.setattr(precision, "matmul_seconds", {torch.float32: 1.0, torch.bfloat16: bf16}.__getitem__)
        for place in (["--save-dir", str(tmp_path)], ["--restore-file", str(tmp_path / "checkpoint_last.pt")]):
            assert precision.training_option([*place, "--gpus", str(gpus)]) == option
    new = precision.training_option(["--save-dir", str(tmp_path), "--gpus", "0", "--reset-optimizer"])
    assert new == "" == precision.training_option(["--save-dir", str(tmp_path / "new"), "--gpus", "0"])


def test_a_precision_that_a_checkpoint_cannot_go_on_in_is_refused_in_one_line(forked_commands, tmp_path):
    torch.save({"model": {}, "cfg": {"common": {}}}, tmp_path / "checkpoint_last.pt")
    for option in ("--bf16", "--fp16", "--memory-efficient-bf16", "--amp"):
        words = ["--save-dir", str(tmp_path), option]
        with pytest.raises(
            ValueError, match=f"^{option}: .*checkpoint_last.pt was trained with float32, .* or give --reset-optimizer"
        ):
            precision.training_option(words)
        assert precision.training_option([*words, "--reset-optimizer"]) == ""  # asked for already
    done = forked_commands().run("-m", "bang.recipes.precision", *words, env=dict(os.environ))
    assert (
        done.returncode == 1 and done.stderr.startswith("bang.recipes.precision: error: --amp") and done.stderr.count("\n") == 1
    )


@pytest.mark.slow
@pytest.mark.parametrize("trained, option", [([], ""), (["--bf16"], "--bf16")])
def test_what_is_read_from_a_run_goes_on(trained, option, train_here, monkeypatch):
    """A real run in each precision, gone on from where the other would be measured to be the faster."""
    folder = train_here("--max-update", "1", *trained)
    monkeypatch.setattr(precision, "matmul_seconds", {torch.float32: 1.0, torch.bfloat16: 2.0 if trained else 0.5}.__getitem__)
    found = precision.training_option(["--save-dir", str(folder), "--gpus", "0"])
    assert found == option
    train_here("--max-update", "2", *filter(None, [found]))
    assert torch.load(folder / "checkpoint_last.pt")["optimizer_history"][-1]["num_updates"] == 2
