"""The script that made the shipped model: all of it, on few pairs and few updates."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import ROOT, copy_pairs

from bang.safety.folder import MODEL, read_config


@pytest.mark.slow
def test_ship_model(little_bert, tmp_path):
    data, out = copy_pairs(tmp_path / "data", 8, train=40), tmp_path / "out"
    (tmp_path / "more.txt").write_text("A library of small tools.\nA game of cards for one player.\n", encoding="utf-8")
    environment = {
        **os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "START": str(little_bert),
        "UPDATES": "3", "TEACHER": "1", "STUDENT": "2", "WARMUP": "1", "SHARDS": "1",
        "AGAIN": "2", "OWN": "2 1", "MORE": str(tmp_path / "more.txt"),
    }  # fmt: skip

    def run():
        command = ["bash", ROOT / "research" / "ship_model.sh", data, out]
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-3000:]
        return done.stderr

    def weights(path):
        return {name: tensor.float() for name, tensor in torch.load(out / path)["model"].items() if tensor.is_floating_point()}

    run()
    teacher, student = (out / "teacher-3-1.log").read_text(), (out / "student-3-1-2" / "train.log").read_text()
    assert '"train_num_updates": "4"' in teacher and '"train_num_updates": "5"' in student
    # both go on from update 3, the student on references and the teacher's words: 80 pairs
    assert all(re.search(r"Loaded checkpoint .*@ 3 updates", log) for log in (teacher, student))
    assert len((out / "student-3-1-2" / "distilled" / "train.tgt").read_text().splitlines()) == 80
    second = out / "student-3-1-2-2"
    assert '"train_num_updates": "2"' in (second / "train.log").read_text()
    count = (second / "distilled" / "count.txt").read_text()
    assert count.startswith("42 sentences") and len((second / "distilled" / "train.src").read_text().splitlines()) >= 80
    own, last = ((out / f"student-3-1-2-2-own-{numbers}.log").read_text() for numbers in ("2", "2-own-1"))
    assert '"train_num_updates": "2"' in own and "train_nar_own_loss" in own
    assert '"train_num_updates": "1"' in last and f"pretrained model {out}/shipped/checkpoint.pt" in last
    begun, *ended = (weights(f"student-3-1-2-2{run}/checkpoint_last.pt") for run in ("/checkpoints", "-own-2", "-own-2-own-1"))
    mean = {name: ((begun[name] + ended[0][name]) / 2).half() for name in begun}
    for name, tensor in weights("shipped/checkpoint.pt").items():
        torch.testing.assert_close(tensor.float(), (mean[name] + ended[1][name]) / 2, rtol=2e-3, atol=1e-6)
    assert (out / "shipped" / "checkpoint.pt").stat().st_size < 4_000_000
    assert "ROUGE-L" in (out / "shipped" / "scores.txt").read_text()
    assert read_config(out / "shipped.folder", MODEL)["sizes"]["encoder_embed_dim"] == 32
    again = run()
    assert again.count("up to date") == 8 + 11 + 12  # the steps of bang run-task and of the two bang distill
