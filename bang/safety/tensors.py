"""Weights in a safetensors file, which holds numbers alone."""

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from ..errors import UserError
from ..text.files import StrPath


def read_safetensors(path: StrPath, source: str | None = None) -> dict[str, Tensor]:
    """The weights by name.

    Args:
        source: the file in messages; None: its path.

    Raises:
        OSError: it cannot be read.
        ValueError: it is truncated, or no such file; one line.
    """
    try:
        return load_file(path)
    except SafetensorError as error:
        reason = str(error).partition("\n")[0]
        raise UserError(f"{source or path}: cannot be read; truncated, or no safetensors file ({reason})") from None
