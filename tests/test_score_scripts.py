"""research/score_model.sh on four sentences, with the shipped model and its link."""

import os
import subprocess
import sys

import pytest
from conftest import ROOT, copy_pairs

NAMES = [
    "ar-greedy", "ar-beam-4", "speculative-4", "semi-nar-4", "semi-nar-4-longer", "nar",
    "semi-nar-4-link", "nar-link", "nar-link-rescore-4",
]  # fmt: skip


@pytest.mark.slow
def test_scores_of_each_mode(tmp_path):
    copy_pairs(tmp_path, 4)
    command = ["bash", ROOT / "research" / "score_model.sh", ROOT / "models" / "debian-synopsis" / "checkpoint.pt", tmp_path]
    environment = {**os.environ, "VIRTUAL_ENV": sys.prefix, "PATH": f"{os.path.dirname(sys.executable)}:{os.environ['PATH']}"}
    done = subprocess.run([*command, tmp_path / "out"], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-3000:]
    assert all(name in done.stdout for name in (*NAMES, "ROUGE-L", "BLEU"))
    texts = {name: (tmp_path / "out" / f"{name}.txt").read_text().splitlines() for name in NAMES}
    assert {len(lines) for lines in texts.values()} == {4}
    assert texts["ar-greedy"] == texts["speculative-4"] and texts["nar"] != texts["nar-link"]
