"""Which modes a checkpoint was trained for, by the options that it stores. Needs neither torch nor fairseq."""

from argparse import Namespace
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from . import modes
from .modes import Mode
from .options import Options
from .visibility import BLOCK_SIZE

_DIGITS = 9  # of shares: 1 - 0.4 - 0.2 is less than 0.4 only by rounding
DECISIVE = ("nar_ratio", "semi_nar_ratio", "ngram", "disable_ngram_loss", "block_size", "random_block_offset")


def split_shares(ratios: Mapping[str, Any]) -> dict[str, float]:
    """Shares of the updates by mode, AR's last: by their order an update draws its mode.

    Args:
        ratios: a criterion's options, among them those that `Mode.share` names; AR has what these leave.
    """
    shares = {mode.name: ratios.get(mode.share, 0.0) for mode in reversed(modes.MODES.values()) if mode.share is not None}
    shares[modes.AR] = 1 - sum(shares.values())
    return {mode: share for mode, share in rounded(shares).items() if share > 0}


def rounded(shares: Mapping[str, float]) -> dict[str, float]:
    """Shares without what floating-point arithmetic added to them."""
    return {mode: round(share, _DIGITS) for mode, share in shares.items()}


def best_trained(shares: Mapping[str, float] | None, names: Iterable[str]) -> str:
    """Of the modes that a model can run the one with the largest share of the training, in a tie the first of the table.

    Args:
        shares: {mode: share}; None or empty where unknown.
        names: of at least one mode; the first of them where no share is known.
    """
    names, known = list(names), rounded(shares or {})
    return max((name for name in modes.trained() if name in names and name in known), key=known.__getitem__, default=names[0])


def update_shares(cfg: Mapping | Namespace) -> dict[str, float]:
    """The share of a run's updates that is spent on each mode; they add up to 1.

    Args:
        cfg: a checkpoint's `cfg`, groups of options; or its `args`, as fairseq 0.9 stored them.
    Returns:
        {mode: share}, empty where the options do not say.
    """
    options = stored_options(cfg)
    criterion, model = options.get("criterion"), str(options.get("model"))
    if criterion == "ngram_language_loss":
        return {modes.AR: 1.0}
    if criterion == "ngram_language_loss_NAR_mixed":
        return split_shares(options)
    if criterion and model.startswith("bang_"):  # a loss of fairseq's, on what a plain forward pass gives
        return {modes.NAR if model.startswith("bang_nar") else modes.AR: 1.0}
    return {}


def trained_modes(cfg: Mapping | Namespace) -> dict[str, float]:
    """The share of a checkpoint's updates that trained each mode.

    With several predicting streams an AR update trains semi-NAR too (`Mode.streams_train`). So shares may add up to more
    than 1.

    Args, Returns: as `update_shares`.
    """
    shares, options = update_shares(cfg), stored_options(cfg)
    ours = str(options.get("criterion")).startswith("ngram_language_loss")
    if ours and options.get("ngram", 1) > 1 and not options.get("disable_ngram_loss"):
        for name, share in list(shares.items()):
            trained_too = modes.find(name).streams_train
            if trained_too is not None:
                shares[trained_too] = shares.get(trained_too, 0.0) + share
    return rounded({mode: shares[mode] for mode in modes.trained() if mode in shares})


class Blocks(NamedTuple):
    """Slots of the longest blocks that a checkpoint was trained with; AR's are of 1, NAR has none.

    Attributes:
        longest: wherever they hang. anywhere: of those that hang on any token, as drafts do. 0: no such blocks.
    """

    longest: int
    anywhere: int


def trained_blocks(cfg: Mapping | Namespace) -> Blocks | None:
    """The blocks that a checkpoint was trained with; None where its options do not say.

    Args: as `update_shares`.
    """
    shares, options = trained_modes(cfg), stored_options(cfg)
    if not shares:
        return None
    ar, blocks = int(modes.AR in shares), 0
    if ar and modes.find(modes.AR).streams_train in shares and not options.get("disable_ngram_loss"):
        ar = options.get("ngram", 1)
    if options.get("semi_nar_ratio"):
        blocks = options.get("block_size", BLOCK_SIZE)
    return Blocks(max(ar, blocks), max(ar, blocks if options.get("random_block_offset") else 0))


AHEAD = 2
"""Slots behind a block that a path is searched through: with them a block ends in a token that the text can go on from."""


def slots_ahead(trained: Iterable[Blocks | None], block: int) -> int:
    """Slots behind blocks of so many that a link may look at: up to `AHEAD`, as far as blocks of the training reached.

    Args:
        trained: of each model; None: unknown.
    """
    reach = min(blocks.longest if blocks is not None else 0 for blocks in trained)
    return min(max(reach - block, 0), AHEAD)


def warnings_of(shares: Mapping[str, float] | None, blocks: Blocks | None, mode: Mode, options: Options) -> list[str]:
    """What to warn of before decoding: a checkpoint that was not trained for the mode, or for such blocks.

    Args:
        shares: as of `trained_modes`. blocks: as of `trained_blocks`.
        mode, options: of decoding.
    """
    warnings = []
    trained = ", ".join(f"{name} {share:.0%}" for name, share in (shares or {}).items())
    if shares and mode.training not in shares:
        warnings.append(
            f"mode {mode.name}: this model was not trained for it ({trained}); expect poor texts: choose a mode that it was "
            "trained for, or train it with another --nar-ratio or --semi-nar-ratio"
        )
    if mode.value(options, "rescore") and shares and modes.AR not in shares:
        warnings.append(
            f"rescore={options.rescore}: this model was not trained for AR ({trained}), which chooses the text; expect a poor "
            "choice: leave it out"
        )
    of_blocks = warning_of_blocks(blocks, mode, options)
    return warnings + ([of_blocks] if of_blocks else [])


def warning_of_blocks(trained: Blocks | None, mode: Mode, options: Options) -> str | None:
    """Warns where blocks hang on tokens that those of the training did not hang on, or are longer.

    Args:
        trained: what the checkpoint was trained with; None: unknown.
        mode, options: of decoding.
    Returns:
        One line; None where there is nothing to say.
    """
    if trained is None or mode.block_option is None:
        return None
    strategy = mode.strategy(options)
    if strategy.verify and trained.anywhere < 2:
        outcome = "little gain" if mode.verified else "poor texts"
        return (
            f"mode {mode.name} drafts from any token, and this checkpoint's blocks were not trained to hang on any token: expect "
            f"{outcome}; train with --ngram, or with --semi-nar-ratio and --random-block-offset"
        )
    longest, block = trained.anywhere if strategy.verify else trained.longest, 1 + strategy.drafts
    if 1 < longest < block:
        option = f"--{mode.block_option.replace('_', '-')} {getattr(options, mode.block_option)}"
        return f"{option}: this checkpoint was trained with blocks of {longest} tokens, expect little of a block of {block}"
    return None


def stored_options(cfg: Mapping | Namespace) -> dict[str, Any]:
    """The options that say which mode was trained, and the names of `model` and `criterion`; none that is not set."""
    if isinstance(cfg, Namespace):
        options = {**vars(cfg), "model": getattr(cfg, "arch", None)}
    else:
        options = {}
        for kind in ("model", "criterion"):
            group = cfg.get(kind) if isinstance(cfg, Mapping) else None
            group = vars(group) if isinstance(group, Namespace) else group if isinstance(group, Mapping) else {}
            options.update({name: group[name] for name in DECISIVE if name in group})
            options[kind] = group.get("_name")
    return {name: value for name, value in options.items() if value is not None}
