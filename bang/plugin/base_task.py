"""What BANG's tasks share."""

import logging
import os
import weakref
from dataclasses import dataclass, field
from typing import Any, Optional

from fairseq import utils
from fairseq.dataclass import FairseqDataclass
from fairseq.distributed import utils as distributed_utils
from fairseq.tasks import FairseqTask
from omegaconf import II

from .. import starts
from ..errors import UserError
from ..processes import hold_folder
from ..safety import checkpoints, settings
from ..safety.hooks import FILE
from ..text.vocabulary import fingerprint
from ..trained_modes import trained_blocks, trained_modes
from . import checkpoint_files, training_run, workers
from .command_line import add_min_lr, program
from .dictionary import BertDictionary
from .progress import Progress, Stop

logger = logging.getLogger(__name__)


@dataclass
class BangTaskConfig(FairseqDataclass):
    """What the tasks' options have in common; most are fairseq's, which the tasks read too."""

    checkpoint_paths: Optional[str] = II("common_eval.path")
    restore_file: Optional[str] = II("checkpoint.restore_file")
    save_dir: Optional[str] = II("checkpoint.save_dir")
    # fairseq's command line resolves a flag only under its own name
    skip_invalid_size_inputs_valid_test: bool = II("dataset.skip_invalid_size_inputs_valid_test")
    other_models: Optional[str] = field(
        default=None,
        metadata={
            "help": "comma-separated architectures of fairseq's, such as transformer, that checkpoints may hold besides BANG's; "
            "use it with files from people you trust"
        },
    )


class BangTask(FairseqTask):
    """What BANG's tasks share: its dictionary, pretrained starts, checkpoints checked before use."""

    _saves: training_run.EpochSaves | None = None
    _progress: Progress | None = None
    _stop: Stop | None = None

    @classmethod
    def add_args(cls, parser) -> None:
        super().add_args(parser)
        add_min_lr(parser)

    @staticmethod
    def check_checkpoints(cfg: BangTaskConfig, from_checkpoint: bool = False) -> None:
        """The checkpoints of --path, before fairseq reads them: a bad one gets one clear line."""
        if not cfg.data:  # a checkpoint says nothing of where data is, see `safety.settings`
            raise UserError('no data folder with the dictionaries: give arg_overrides={"data": FOLDER} to fairseq\'s loader')
        if from_checkpoint:
            return
        settings.allow(models=filter(None, (cfg.other_models or "").split(",")))
        if cfg.checkpoint_paths:
            for path in utils.split_paths(cfg.checkpoint_paths):
                checkpoints.check(path)

    @classmethod
    def load_dictionary(cls, filename: str) -> BertDictionary:
        """Reads `piece count` lines; ids are line numbers."""
        return BertDictionary.load(filename)

    @classmethod
    def build_dictionary(cls, filenames, **kwargs):
        raise UserError("BANG's dictionary is not built from text: give --srcdict vocab.txt and --tgtdict vocab.txt")

    def build_model(self, cfg, from_checkpoint: bool = False):
        """Builds the model; a new one may start from --load-from-pretrained-model.

        Once loaded the option is cleared, so that the checkpoints of this run never ask for the file;
        nor does a run that resumes. `model.trained_modes` and `model.trained_blocks` say what the options,
        of this run or of the checkpoint, train.
        """
        if not from_checkpoint:
            settings.allow(models=[cfg._name])  # the command line's own, which may be resumed
        model = super().build_model(cfg, from_checkpoint)
        run = training_run.run_config(cfg)
        if run and not from_checkpoint:
            workers.meet(run.distributed_training)
        model.trained_modes, model.trained_blocks = (trained_modes(run), trained_blocks(run)) if run else ({}, None)
        if run and not from_checkpoint and hasattr(model, "decodes"):
            training_run.check_modes(run, model.decodes)
        if from_checkpoint:
            self._keep_to(model.max_positions())
        restore = None if from_checkpoint else self._checkpoint_to_load()
        if getattr(cfg, "load_from_pretrained_model", None):
            if not from_checkpoint and restore is None:
                starts.load_into(model, cfg.load_from_pretrained_model, cfg.load_sep, data=self.cfg.data)
            cfg.load_from_pretrained_model = None
        elif getattr(cfg, "load_sep", False) and not from_checkpoint:
            logger.warning("--load-sep has no effect without --load-from-pretrained-model")
        if restore is not None:  # say now, in one line, if it cannot be resumed
            state = checkpoints.check(restore)
            self._check_dictionary(state.get("task_state"), f"checkpoint {restore}")
            weights = dict(state["model"])
            model.upgrade_state_dict(weights)
            checkpoints.check_fits(weights, model.state_dict(), f"checkpoint {restore}")
            if "last_optimizer_state" not in state:
                logger.info("checkpoint %s: has no optimizer state; a new one begins with its weights, at update 0", restore)
        return model

    def build_criterion(self, cfg, from_checkpoint: bool = False):
        settings.allow(criterions=[cfg._name])
        return super().build_criterion(cfg, from_checkpoint)

    def _keep_to(self, limits) -> None:
        """Lowers the task's limits to those of a trained model: sources are cut to what it has positions for."""
        for name, limit in zip(("max_source_positions", "max_target_positions"), limits):
            setattr(self.cfg, name, min(getattr(self.cfg, name), limit))

    def get_batch_iterator(self, dataset, max_tokens=None, max_sentences=None, max_positions=None, *args, **kwargs):
        """As fairseq's; a sentence over --max-tokens is over a limit too, not a failed assertion.

        fairseq-generate gets its part of the batches by --num-shards and --shard-id, which fairseq 0.12 leaves unread.
        A run that resumes has the batches of one that never stopped: fairseq keeps those that it made in epoch 1, but
        resuming in a later epoch draws anew which of two equally long sentences comes first.
        """
        limits = utils.resolve_max_positions(max_positions, max_tokens)
        run = training_run.run_config(self.cfg)
        if run is not None and run.dataset.num_shards > 1 and dataset is self.datasets.get(run.dataset.gen_subset):
            kwargs.update(num_shards=run.dataset.num_shards, shard_id=run.dataset.shard_id)
        anew = kwargs.get("disable_iterator_cache") or kwargs.get("update_epoch_batch_itr")
        begins = self.can_reuse_epoch_itr(dataset) and not anew and dataset not in self.dataset_to_epoch_iter
        epoch = kwargs.get("epoch", 1)
        if begins and epoch > 1:
            kwargs["epoch"] = 1
            if run is not None and run.dataset.update_ordered_indices_seed:  # --seed and the epoch
                kwargs["seed"] -= epoch - 1
        iterator = super().get_batch_iterator(dataset, max_tokens, max_sentences, limits, *args, **kwargs)
        if begins and epoch > 1:
            iterator.epoch = epoch
            dataset.set_epoch(epoch)
        if run is not None and dataset is self.datasets.get(run.dataset.train_subset):
            self._train_batches = len(iterator)  # gives the length of the run
        return iterator

    def begin_epoch(self, epoch: int, model) -> None:
        """fairseq's hook before a training epoch: sets up what depends on the length of the run."""
        super().begin_epoch(epoch, model)
        run = training_run.run_config(self.cfg)
        if run is None:
            return
        if self._saves is None:  # the first epoch of this process
            self._hold_folder(run)
            self._saves = training_run.EpochSaves(run)
            training_run.warn_of_long_warmup(run, self._train_batches)
            updates = training_run.updates_by_epoch(run, [self._train_batches])
            if program() == "fairseq-train" and Stop.fits(run):
                self._stop = Stop(run)
                self._stop.install()
            self._progress = Progress(sum(updates) if updates else None, may_stop=self._stop is not None)
        self._saves.begin_epoch(epoch)

    def train_step(self, sample, model, criterion, optimizer, update_num, ignore_grad=False):
        """As fairseq's, which counts the updates before this one."""
        found = super().train_step(sample, model, criterion, optimizer, update_num, ignore_grad)
        if self._progress is not None:
            self._progress.log(update_num)
            if self._stop is not None and update_num + 1 != self._progress.updates:  # the last update ends the run by itself
                self._stop.end_update()
        return found

    def post_save(self, path: str, updates: int) -> None:
        """fairseq's hook after a checkpoint."""
        if self._stop is not None:
            self._stop.end_save(path, updates)

    def _hold_folder(self, run) -> None:
        """Makes this run the only one that saves in its folder, and removes what killed ones left half written."""
        if not run.checkpoint.no_save and distributed_utils.is_master(run.distributed_training):
            weakref.finalize(self, hold_folder(run.checkpoint.save_dir))
            checkpoint_files.remove_leftovers(run.checkpoint.save_dir)

    def _checkpoint_to_load(self) -> str | None:
        """The checkpoint that fairseq's trainer will begin from, if there is one; fairseq passes over a folder without a word."""
        path, run = self.cfg.restore_file or "", training_run.run_config(self.cfg)
        if path == "checkpoint_last.pt":
            path = os.path.join(self.cfg.save_dir or "", path)
            if run is not None and not os.path.exists(path):
                path = run.checkpoint.continue_once or run.checkpoint.finetune_from_model or path
            elif run is not None:
                path = self._whole(path, run)
        return path if os.path.exists(path) else None

    def _whole(self, path: str, run) -> str:
        """The last checkpoint of a run; where it is damaged the newest whole one, which fairseq's trainer then loads."""
        whole = checkpoints.resumable(path)
        if whole != path:
            logger.warning("checkpoint %s: cannot be read; going on from %s, the newest that can", path, whole)
            run.checkpoint.restore_file, run.checkpoint.finetune_from_model = whole, None
        return whole

    def state_dict(self) -> dict:
        """Kept in checkpoints: a fingerprint of the dictionaries that the data was binarized with."""
        return {**super().state_dict(), "dictionaries": self._fingerprint()}

    def load_state_dict(self, state_dict: dict) -> None:
        state_dict = dict(state_dict)
        file = state_dict.pop(FILE, None)
        self._check_dictionary(state_dict, f"checkpoint {file}" if file else "the checkpoint")
        state_dict.pop("dictionaries", None)
        super().load_state_dict(state_dict)

    def _check_dictionary(self, task_state: Any, source: str) -> None:
        """Refuses a checkpoint whose `task_state` names other dictionaries; fairseq 0.9 names none."""
        saved = task_state.get("dictionaries") if isinstance(task_state, dict) else None
        if saved is not None and saved != self._fingerprint():
            raise UserError(
                f"{self.cfg.data}: binarized with another dictionary than {source} was trained with; "
                "run fairseq-preprocess again with its dictionary as --srcdict and --tgtdict"
            )

    def _fingerprint(self) -> str:
        source, target = self.source_dictionary, self.target_dictionary
        return fingerprint(source.symbols, target.symbols, source.normalization)

    def filter_indices_by_size(self, indices, dataset, max_positions=None, ignore_invalid_inputs=False):
        """Sentences over a limit are an error, not a silent loss, unless --skip-invalid-size-inputs-valid-test is given.

        In interactive mode the other lines are still processed.
        """
        kept, too_long = dataset.filter_indices_by_size(indices, max_positions)
        if len(too_long):
            sizes, typed = tuple(int(size) for size in dataset.size(too_long[0])), getattr(dataset, "typed", False)
            what = f"{len(too_long)} of {len(indices)} sentences of {'this buffer' if typed else self.cfg.data} are over "
            what += f"the limit {max_positions}; the first is sentence {too_long[0]} of size {sizes} (source, target)"
            mend = "cut sources with --truncate-source, raise --max-source-positions, --max-target-positions or --max-tokens"
            if typed:
                logger.warning("%s; left out: %s", what, mend)
            elif self.cfg.skip_invalid_size_inputs_valid_test:
                logger.warning("%s; left out", what)
            else:
                raise UserError(f"{what}; {mend}, or leave such sentences out with --skip-invalid-size-inputs-valid-test")
        return kept
