"""Copies checkpoints completely or not at all, and removes what a killed run leaves.

fairseq writes a checkpoint under another name and renames it, but copies it to checkpoint_last.pt and checkpoint_best.pt in
place: a run that is killed during the copy leaves half a file.
"""

import shutil
from pathlib import Path

from fairseq.file_io import PathManager

from ..text.files import StrPath, replacing

PART = 1 << 24
"""Bytes copied at a time."""

plain_copy = PathManager.copy


def copy(src_path: str, dst_path: str, overwrite: bool = False) -> bool:
    """fairseq's PathManager.copy; a local file is replaced completely or not at all."""
    if not (overwrite and PathManager.supports_rename(dst_path)):
        return plain_copy(src_path, dst_path, overwrite)
    with open(src_path, "rb") as source, replacing(dst_path) as target:
        shutil.copyfileobj(source, target, PART)
    return True


def copy_whole() -> None:
    """Makes fairseq use `copy`."""
    PathManager.copy = staticmethod(copy)


def remove_leftovers(folder: StrPath) -> None:
    """Removes half-written checkpoints of killed runs; call it while no other run writes there."""
    for path in Path(folder).glob("checkpoint*.pt.tmp"):
        path.unlink(missing_ok=True)
