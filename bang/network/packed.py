"""Weights laid out for decoding on a CPU: products of few rows.

A pass of decoding multiplies 1 to some 30 features by the whole embedding, which is most of a small decoder's work. The usual
product, made for one row or for hundreds, takes up to four times as long for 4 to 20 rows as for one; with a copy of
the matrix laid out in oneDNN's blocks a further row costs hardly more than its arithmetic. For the smaller weights of the
layers it is enough that they lie in memory column by column.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

MOST_ROWS = 64
"""More rows gain nothing."""


def lay_by_columns(layers: nn.Module) -> None:
    """Lays float32 matrices on a CPU out column by column, in place; values and shapes stay as they are.

    With 4 to 60 rows the usual product with them is a tenth to a quarter quicker then, with 1 or hundreds no slower.
    """
    for weight in layers.parameters():
        if weight.dim() == 2 and weight.device.type == "cpu" and weight.dtype == torch.float32:
            weight.data = weight.data.t().contiguous().t()


class PackedProduct:
    """x @ weight.T by a packed copy of one weight where that is quicker: few rows, float32, CPU, no gradient.

    The copy is made when it is first needed, and anew once the weight is another tensor or was written to. fairseq's
    optimizers write unseen (by `.data`): call `forget` before training goes on.
    """

    def __init__(self):
        self.forget()

    def forget(self) -> None:
        """Drops the copy."""
        self._weight: Tensor | None = None  # what was copied; while it is held no other can take its address
        self._version: int | None = None
        self._copy: Tensor | None = None

    def __call__(self, x: Tensor, weight: Tensor) -> Tensor:
        """x (..., D) and weight (V, D) to (..., V)."""
        served = _SERVES and x.device.type == "cpu" and x.dtype == torch.float32 and not torch.is_grad_enabled()
        if not served or x.numel() > MOST_ROWS * x.size(-1):
            return F.linear(x, weight)
        version = None if weight.is_inference() else weight._version
        if self._weight is None or self._weight.data_ptr() != weight.data_ptr() or self._version != version:
            self._weight, self._version = weight.detach(), version
            self._copy = torch.ops.mkldnn._reorder_linear_weight(self._weight, None)
        return torch.ops.mkldnn._linear_pointwise(x, self._copy, None, "none", [], "")

    def __reduce__(self):
        return PackedProduct, ()  # copies and pickles of a model make their own


# the operators that torch's own compiler emits; elsewhere than on x86 with AVX nothing was measured
_SERVES = (
    torch.backends.mkldnn.is_available()
    and hasattr(torch.ops.mkldnn, "_linear_pointwise")
    and torch.backends.cpu.get_cpu_capability().startswith("AVX")
)
