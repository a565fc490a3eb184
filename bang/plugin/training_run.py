"""What BANG's tasks see to while fairseq trains: options that do not fit each other, or the run.

fairseq hands a task parts of one configuration, which know the whole they belong to.
"""

import logging
import math
from collections.abc import Iterable
from itertools import cycle

from omegaconf import DictConfig

from .. import modes
from ..errors import UserError
from ..trained_modes import update_shares

logger = logging.getLogger(__name__)


def run_config(cfg) -> DictConfig | None:
    """The configuration of the whole run, or checkpoint, that `cfg` is a part of; None for a part alone."""
    root = cfg._get_root() if isinstance(cfg, DictConfig) else None
    return root if isinstance(root, DictConfig) and "criterion" in root else None


def check_modes(run: DictConfig, decodes: Iterable[str]) -> None:
    """Raises a ValueError where updates would train a mode that the model does not run.

    Args:
        decodes: the modes that the model runs.
    """
    decodes = [mode for mode in modes.trained() if mode in decodes]
    other = [mode for mode in update_shares(run) if mode not in decodes]
    if other:
        raise UserError(
            f"--arch {run.model._name} runs {' and '.join(decodes).upper()} alone, but --criterion {run.criterion._name} "
            f"trains {' and '.join(other).upper()} too: correct --criterion, --nar-ratio and --semi-nar-ratio, "
            "or use --arch bang_ar_nar_mixed"
        )


def updates_by_epoch(run: DictConfig, batches: Iterable[int]) -> list[int] | None:
    """Updates in each epoch until --max-epoch or --max-update ends the run; None where neither does.

    Args:
        batches: batches of a worker in an epoch; of several shards in turn.
    """
    last_epoch, last_update = (limit or math.inf for limit in (run.optimization.max_epoch, run.optimization.max_update))
    if min(last_epoch, last_update) == math.inf:
        return None
    frequency = run.optimization.update_freq
    updates: list[int] = []
    left = last_update
    for epoch, count in enumerate(cycle(batches)):
        if epoch >= last_epoch or left <= 0:
            break
        updates.append(min(math.ceil(count / frequency[min(epoch, len(frequency) - 1)]), left))
        left -= updates[-1]
    return updates


def warn_of_long_warmup(run: DictConfig, batches: int) -> None:
    """Says so when the learning rate would still rise as the run ends; `batches` as above."""
    warmup, updates = run.lr_scheduler.get("warmup_updates") or 0, updates_by_epoch(run, [batches])
    if updates is not None and warmup > sum(updates):
        logger.warning(
            "--warmup-updates %d is more than the %d updates of this run: the learning rate never gets to --lr; "
            "try --warmup-updates %d", warmup, sum(updates), fitting_warmup(sum(updates), most=warmup),
        )  # fmt: skip


def fitting_warmup(updates: int, most: int) -> int:
    """A tenth of the updates, at least 1 and at most `most`."""
    return max(1, min(most, updates // 10))


class EpochSaves:
    """Has fairseq save every epoch: `checkpoint_last.pt` (and `_best`) always, numbered files as --save-interval says.

    fairseq saves nothing at the end of an epoch that is no multiple of --save-interval, be it the last. It
    reads these options again at every save, so they are set before each epoch.
    """

    def __init__(self, run: DictConfig):
        self.options, self.last_epoch = run.checkpoint, run.optimization.max_epoch
        self.interval, self.numbered = self.options.save_interval, not self.options.no_epoch_checkpoints
        self.options.save_interval = 1

    def begin_epoch(self, epoch: int) -> None:
        keeps = epoch % self.interval == 0 or epoch == self.last_epoch
        self.options.no_epoch_checkpoints = not (self.numbered and keeps)
