"""BANG: one encoder-decoder that generates autoregressively, in blocks, or in a single pass.

    from bang import Bang
    Bang.load("model").generate(["some text"], mode="nar")

`import bang` is light: neither torch nor fairseq is loaded. Where fairseq is there already, as it is
when `--user-dir` brings it here, BANG registers with it; elsewhere `import bang.plugin` does.
"""

import sys

__all__ = ["Bang"]

if "fairseq" in sys.modules:
    from . import plugin  # noqa: F401


def __getattr__(name: str):
    if name == "Bang":  # imported on first use: the API's imports are slow
        from .inference.api import Bang

        return Bang
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
