"""Weights from elsewhere that a new model starts from: `--load-from-pretrained-model`.

`files` reads them and recognizes the family, `bert` and `prophetnet` give them our names, `adapt` fits them to the
model's layers, lengths and vocabulary. What has no counterpart in a start is said where it is made.
"""

from .adapt import weights_for
from .files import OPTION, Start, read
from .load import load_into

__all__ = ["OPTION", "Start", "load_into", "read", "weights_for"]
