"""BANG for fairseq: what `--user-dir bang` imports. Registers models, criterions and tasks, nothing else."""

from . import checkpoints, criterion, model, task  # noqa: F401  (importing registers)
from .pretraining import task as pretraining_task  # noqa: F401

checkpoints.allow_fairseq_classes()
