"""research/score_rescoring.sh on four sentences, with the shipped model."""

import os
import re
import subprocess
import sys

import pytest
from conftest import ROOT, hypotheses


@pytest.mark.slow
def test_rescoring(tmp_path):
    for side in ("src", "tgt"):
        lines = (ROOT / "examples" / "debian" / f"test.{side}").read_text(encoding="utf-8").splitlines(keepends=True)[:4]
        (tmp_path / f"test.{side}").write_text("".join(lines), encoding="utf-8")
    command = ["bash", ROOT / "research" / "score_rescoring.sh", ROOT / "models" / "debian-synopsis" / "checkpoint.pt", tmp_path]
    environment = {**os.environ, "VIRTUAL_ENV": sys.prefix, "PATH": f"{os.path.dirname(sys.executable)}:{os.environ['PATH']}"}
    done = subprocess.run([*command, tmp_path / "out"], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-3000:]
    header = done.stdout.splitlines()[0]
    assert header.split()[:6] == [f"{mode}-{count}" for mode in ("nar", "semi-nar") for count in (0, 2, 4)]
    assert len(re.findall(r"^[\d.]+$", done.stdout, flags=re.M)) == 6  # seconds
    texts = {name: (tmp_path / "out" / f"{name}.txt").read_text().splitlines() for name in header.split()[:6]}
    assert {len(lines) for lines in texts.values()} == {4}
    own, chosen = (hypotheses((tmp_path / "out" / f"nar-{count}.log").read_text()) for count in (0, 4))
    assert all(own[sentence][0] != chosen[sentence][0] for sentence in range(4))  # NAR's scores, AR's scores
