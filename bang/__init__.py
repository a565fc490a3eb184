"""BANG: one encoder-decoder that generates autoregressively, in blocks, or in a single pass.

`import bang` is light: neither torch nor fairseq is loaded. Where fairseq is there already, as it is
when `--user-dir` brings it here, BANG registers with it; elsewhere `import bang.plugin` does.
"""

import sys

if "fairseq" in sys.modules:
    from . import plugin  # noqa: F401
