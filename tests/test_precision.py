"""The precision that the recipes take."""

import subprocess
import sys

import pytest
import torch
from bang import precision


@pytest.mark.parametrize("bf16,option", [(0.5, "--bf16"), (0.9, ""), (2.0, "")])
def test_bf16_where_it_pays(bf16, option, monkeypatch):
    seconds = {torch.float32: 1.0, torch.bfloat16: bf16}
    monkeypatch.setattr(precision, "matmul_seconds", seconds.__getitem__)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert precision.training_option() == option
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert precision.training_option() == "--fp16"


def test_command_prints_what_fairseq_takes():
    done = subprocess.run([sys.executable, "-m", "bang.precision"], capture_output=True, text=True, check=True)
    assert done.stdout.strip() in ("", "--bf16", "--fp16")
    assert precision.matmul_seconds(torch.float32) > 0
