"""Puts a start's weights into a model."""

import logging

from ..network.model import BangModel
from ..safety import checkpoints
from ..text.vocabulary import TOKENIZER_FILE
from .adapt import weights_for
from .files import OPTION, Start, read

logger = logging.getLogger(__name__)


def load_into(model: BangModel, start: Start | str, load_sep: bool = False, data: str = "the model") -> None:
    """Starts a model from pretrained weights: BANG's, BERT's or ProphetNet's.

    Args:
        start: what `read` gave, or a path for it.
        load_sep: `[X_SEP]` takes the embedding of `[SEP]`.
        data: whose dictionary the model has, for messages.

    Raises:
        ValueError: the file cannot be read or does not fit; one line.
    """
    start = read(start) if isinstance(start, str) else start
    pieces = {side: getattr(model, side).dictionary.symbols for side in ("encoder", "decoder")}
    normalization = model.encoder.dictionary.normalization
    if start.normalization not in (None, normalization):
        logger.warning(
            "%s %s: its own %s treats capitals, accents or ideographs otherwise than the vocabulary of %s; put it beside that",
            OPTION, start.path, TOKENIZER_FILE, data,
        )  # fmt: skip
    weights = weights_for(start, model.cfg, model.state_dict(), pieces, load_sep, data, normalization)
    model.upgrade_state_dict(weights)
    checkpoints.check_fits(weights, model.state_dict(), f"{OPTION} {start.path}")
    model.load_state_dict(weights, strict=True)
    logger.info("started from the pretrained model %s (%s)", start.path, start.family)
