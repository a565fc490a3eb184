"""How do I ship a model without torch? Export it once; then onnxruntime, tokenizers and numpy run it.

bang export models/debian-synopsis/checkpoint.pt exported
python examples/ship_without_torch.py
"""

import sys

from bang import Bang

model = Bang.load("exported", threads=2)
print(model.generate("A header-only dbus-binding leveraging C++-11.", mode="nar"))
assert not {"torch", "fairseq", "transformers"} & sys.modules.keys()
