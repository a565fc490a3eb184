"""BANG: one encoder-decoder that generates autoregressively, in blocks, or in a single pass.

    from bang import Bang
    Bang.load("model").generate(["some text"], mode="nar")

`import bang` is light: neither torch nor fairseq is loaded. Where fairseq is there already, as it is
when `--user-dir` brings it here, BANG registers with it; elsewhere `import bang.plugin` does.
"""

import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .inference.api import Bang as Bang
    from .inference.api import Generation as Generation

__all__ = ["Bang", "Generation", "__version__"]
__version__ = "0.2.0"  # pyproject.toml reads it here

if "fairseq" in sys.modules:
    from . import plugin  # noqa: F401


def __getattr__(name: str) -> Any:
    if name in ("Bang", "Generation"):  # imported on first use: the API's imports are slow
        from .inference import api

        return getattr(api, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
