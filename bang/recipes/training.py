"""The published hyper-parameters, as the lines of fairseq-train that they are.

`bang finetune --dry-run` and `bang pretrain --dry-run` print the line. What follows DATA and SAVE_DIR on the command
line takes the place of the recipe's own option.
"""

import os
import shlex
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..errors import UserError
from ..processes import exit_status, started
from ..text.files import StrPath
from .binarize import PACKAGE
from .gpus import gpu_count

PUBLISHED = (
    "--optimizer adam --adam-betas '(0.9, 0.999)' --weight-decay 0.01 --clip-norm 0.1 --ddp-backend no_c10d "
    "--max-source-positions 512 --max-target-positions 512 --arch bang_ar_nar_mixed_base"
)
FINETUNING = (
    "--task translation_bang --truncate-source --dropout 0.1 --attention-dropout 0.1 "
    "--criterion ngram_language_loss_NAR_mixed --label-smoothing 0.1 --lr 0.0001 "
    "--max-tokens 3072 --update-freq 1 --num-workers 8"
)
SCHEDULE = "--lr-scheduler inverse_sqrt --warmup-init-lr 1e-07"
WARMUP = {"finetune": 1000, "pretrain": 10000}
"""Updates of warm-up, or a tenth of the run where that is less. That of fine-tuning is published."""

_FEW_EPOCHS = "--max-epoch 10 --save-interval 1 --keep-last-epochs 10"
_MANY_EPOCHS = "--max-epoch 50 --save-interval 5 --keep-last-epochs 10"
TRAINING_OPTIONS = {
    "ar": f"--nar-ratio 0 --ngram 1 --disable-ngram-loss {_FEW_EPOCHS}",
    "nar": f"--nar-ratio 1 --ngram 1 --disable-ngram-loss {_MANY_EPOCHS}",
    "semi-nar": f"--semi-nar-ratio 1 --ngram 1 {_MANY_EPOCHS}",
    "mixed": f"--nar-ratio 0.333 --semi-nar-ratio 0.333 --ngram 1 {_MANY_EPOCHS}",
    "n-stream": f"--nar-ratio 0 --ngram 9 --stream-decay 0.7 {_FEW_EPOCHS}",
    "all": "--nar-ratio 0.4 --semi-nar-ratio 0.2 --block-size 6 --random-block-offset --joint-modes --ngram 1 " + _MANY_EPOCHS,
}
"""What fine-tuning trains: ar and nar are the published ones, the others ours."""

PRETRAINING = (
    "--task bang_pretraining --tokens-per-sample 512 --mask-block 64 --mask-length 9 --criterion ngram_language_loss --ngram 9 "
    "--lr 0.0003 --max-epoch 35 --num-workers 2 --save-interval-updates 1000 --keep-interval-updates 1 --keep-last-epochs 5"
)
BLOCKS, BLOCKS_AT_ONCE = 1024, 8
"""Blocks of an update over all GPUs, and of a GPU at a time. They and --lr are not published, and so ours."""


@dataclass(frozen=True)
class Machines:
    """What trains.

    Attributes:
        gpus: of this node; 0: the CPU.
        nodes, rank: how many nodes, and which this one is.
        address, port: of node 0.
    """

    gpus: int = 0
    nodes: int = 1
    rank: int = 0
    address: str = "127.0.0.1"
    port: int = 29500

    @property
    def world(self) -> int:
        """Processes that train together."""
        return max(self.gpus, 1) * self.nodes

    @classmethod
    def here(cls, environment: Mapping[str, str]) -> "Machines":
        """As GPUS, NODES, NODE_RANK, MASTER_ADDR and MASTER_PORT say; by default all GPUs of this node.

        Raises:
            ValueError: a number that is none; one line.
        """
        numbers = {}
        for name, default in (("GPUS", None), ("NODES", 1), ("NODE_RANK", 0), ("MASTER_PORT", 29500)):
            value = environment.get(name) or default
            if value is not None and not str(value).isdecimal():
                raise UserError(f"{name} is {value!r}: give a whole number")
            numbers[name] = gpu_count() if value is None else int(value)
        return cls(
            numbers["GPUS"],
            numbers["NODES"],
            numbers["NODE_RANK"],
            environment.get("MASTER_ADDR") or cls.address,
            numbers["MASTER_PORT"],
        )


def finetuning(mode: str, data: StrPath, save_dir: StrPath, further: Sequence[str] = ()) -> list[str]:
    """fairseq-train's options for fine-tuning.

    Args:
        mode: of TRAINING_OPTIONS.
        further: options that take the place of the recipe's.

    Raises:
        ValueError: no such mode.
    """
    if mode not in TRAINING_OPTIONS:
        raise UserError(f"--mode {mode}: choose {', '.join(TRAINING_OPTIONS)}")
    schedule = shlex.split(f"{SCHEDULE} --min-lr 1e-09")
    if has(further, "--lr-scheduler"):
        schedule = []  # another may begin or end at 0
    recipe = shlex.split(f"{PUBLISHED} {FINETUNING} {TRAINING_OPTIONS[mode]}")
    return [*_places(data, save_dir), *recipe, *schedule, *further]


def pretraining(
    data: str, save_dir: StrPath, further: Sequence[str] = (), world: int = 1, environment: Mapping[str, str] = {}
) -> list[str]:
    """fairseq-train's options for pretraining.

    Args:
        data: folders with colons between them, one an epoch in turn.
        world: processes that train together.
        environment: BLOCKS and BLOCKS_AT_ONCE.
    """
    at_once = int(environment.get("BLOCKS_AT_ONCE") or BLOCKS_AT_ONCE)
    update_freq = max(int(environment.get("BLOCKS") or BLOCKS) // (at_once * world), 1)
    recipe = shlex.split(f"{PUBLISHED} {PRETRAINING} {SCHEDULE} --batch-size {at_once} --update-freq {update_freq}")
    return [*_places(data, save_dir), *recipe, *further]


def _places(data: StrPath, save_dir: StrPath) -> list[str]:
    return [str(data), "--save-dir", str(save_dir), "--tensorboard-logdir", f"{save_dir}/tensorboard"]


def has(words: Sequence[str], option: str) -> bool:
    """Whether a command line gives an option, as `--option value` or `--option=value`."""
    return any(word == option or word.startswith(f"{option}=") for word in words)


def with_warmup(options: list[str], most: int, machines: Machines, always_tell: bool = False) -> list[str]:
    """Adds a warm-up that fits the run, unless the options have one.

    Args:
        most: the longest.
        always_tell: say how long the run will be even where the options have a warm-up.

    Raises:
        ValueError: the data cannot be counted; one line.
    """
    given = has(options, "--warmup-updates")
    if given and not always_tell:
        return options
    # a process of its own: fairseq's registries and logging are filled by it
    words = [sys.executable, "-m", "bang.recipes.expected_run", "--world", machines.world, "--warmup", most, *options]
    with started(list(map(str, words)), stdout=subprocess.PIPE, text=True) as process:
        counted = process.communicate()[0]
    if process.returncode != 0:  # it has said why, or a signal has ended it
        sys.exit(exit_status(process))
    if machines.rank == 0:
        print(counted, end="", flush=True)
    return options if given else [*options, "--warmup-updates", counted.rpartition("warm-up: ")[2].strip()]


def command(options: Sequence[str], machines: Machines, precision: str = "") -> list[str]:
    """The command line that trains: fairseq-train, under torchrun where several processes train together."""
    words = ["--user-dir", str(PACKAGE), *options, "--distributed-world-size", str(machines.world)]
    words = [*filter(None, [precision]), *(["--cpu"] if not machines.gpus else []), *words]
    if machines.world == 1:
        return ["fairseq-train", *words]
    processes = max(machines.gpus, 1)
    torchrun = ["torchrun", "--nnodes", machines.nodes, "--nproc_per_node", processes, "--node_rank", machines.rank]
    torchrun += ["--master_addr", machines.address, "--master_port", machines.port, "-m", "fairseq_cli.train"]
    return [*map(str, torchrun), *words]


def launch(options: Sequence[str], machines: Machines, dry: bool = False) -> None:
    """Trains in place of this process, or prints the command line.

    Raises:
        ValueError: the options name a precision that the checkpoint they go on from does not have.
    """
    precision = ""
    if machines.gpus or machines.nodes == 1:  # which precision is faster is no question for each node's CPU alone
        from .precision import training_option  # brings torch

        precision = training_option(["--gpus", str(machines.gpus), *options])
    words = command(options, machines, precision)
    if dry:
        print(shlex.join(words))
        return
    path = os.pathsep.join([os.environ.get("PATH", ""), str(Path(sys.executable).parent)])
    os.environ["PATH"] = path  # fairseq-train beside this interpreter, if nowhere else
    os.execvp(words[0], words)
