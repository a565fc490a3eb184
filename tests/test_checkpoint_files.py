"""Copies of checkpoints are whole or as they were, and a damaged last one is passed over."""

import logging
import shutil

import pytest
import torch
from conftest import GOLDEN
from fairseq.file_io import PathManager

from bang.plugin import checkpoint_files
from bang.recipes.precision import training_option
from bang.safety import files
from bang.safety.checkpoints import resumable
from bang.safety.files import DamagedError

CHECKPOINT = GOLDEN / "mixed" / "checkpoint.pt"


def updates(path):
    return torch.load(path)["optimizer_history"][-1]["num_updates"]


def halve(path):
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


def test_fairseq_copies_whole_or_not_at_all(tmp_path, monkeypatch):
    """To a name that is new, to an old file, and through a link."""
    (tmp_path / "last.pt").write_bytes(b"old")
    (tmp_path / "link.pt").symlink_to("last.pt")

    def broken(source, target, length):
        target.write(source.read(10))
        raise KeyboardInterrupt

    for name, before in (("new.pt", None), ("last.pt", b"old"), ("link.pt", b"old")):
        path = tmp_path / name
        with monkeypatch.context() as patched:
            patched.setattr(checkpoint_files.shutil, "copyfileobj", broken)
            with pytest.raises(KeyboardInterrupt):
                PathManager.copy(str(CHECKPOINT), str(path), overwrite=True)
        assert (path.read_bytes() if path.exists() else None) == before
        assert PathManager.copy(str(CHECKPOINT), str(path), overwrite=True)
        assert path.read_bytes() == CHECKPOINT.read_bytes()
        (tmp_path / "last.pt").write_bytes(b"old")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["last.pt", "link.pt", "new.pt"]
    assert (tmp_path / "link.pt").is_symlink()


def test_a_damaged_last_checkpoint_is_passed_over(train_here, tmp_path, caplog):
    """The run goes on from the newest whole one, also where another is damaged, and equals one that never stopped."""
    train_here("--max-update", "6", "--save-dir", tmp_path / "whole")
    folder = train_here("--max-update", "4", "--save-interval-updates", "2")
    assert {path.name for path in folder.glob("*.pt")} >= {"checkpoint_1_2.pt", "checkpoint1.pt", "checkpoint_last.pt"}
    halve(folder / "checkpoint_last.pt")
    halve(folder / "checkpoint_2_4.pt")
    (folder / "checkpoint9.pt.tmp").write_bytes(b"half of one")
    assert resumable(str(folder / "checkpoint_last.pt")) == str(folder / "checkpoint1.pt")
    assert training_option(["--cpu", "--save-dir", str(folder)]) == ""
    with caplog.at_level(logging.WARNING):
        train_here("--max-update", "6")
    (said,) = [record.getMessage() for record in caplog.records if "cannot be read" in record.getMessage()]
    assert (
        said
        == f"checkpoint {folder}/checkpoint_last.pt: cannot be read; going on from {folder}/checkpoint1.pt, the newest that can"
    )
    assert updates(folder / "checkpoint_last.pt") == 6 and not list(folder.glob("*.tmp"))
    ends = [torch.load(path / "checkpoint_last.pt")["model"] for path in (tmp_path / "whole", folder)]
    assert all(torch.equal(ends[0][name], ends[1][name]) for name in ends[0])


def test_where_no_whole_one_lies_beside_it_that_is_told(tmp_path, train_here):
    folder = tmp_path / "checkpoints"
    folder.mkdir()
    shutil.copy(CHECKPOINT, folder / "checkpoint_last.pt")
    halve(folder / "checkpoint_last.pt")
    state = files.read(str(CHECKPOINT))
    torch.save({name: state[name] for name in ("args", "model")}, folder / "checkpoint1.pt")  # without an optimizer's state
    with pytest.raises(DamagedError, match="cannot be read; .*; no whole one lies beside it: remove it to begin anew$"):
        train_here("--max-update", "1")
    (folder / "checkpoint_last.pt").write_bytes(b"")
    with pytest.raises(DamagedError, match="remove it to begin anew$"):
        resumable(str(folder / "checkpoint_last.pt"))
    assert resumable(str(CHECKPOINT)) == str(CHECKPOINT)
