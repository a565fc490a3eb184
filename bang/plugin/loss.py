"""Output layer and label-smoothed cross-entropy in one.

Shapes: n predictions, D width, V vocabulary.
"""

import torch
from torch import Tensor

ROWS = {"cpu": 256}  # predictions whose logits exist at a time: they stay in the cache of a CPU
ROWS_ELSEWHERE = 4096
FP16_SCALE = 256.0  # of the gradients of logits: many would round to zero in fp16


class _LinearNll(torch.autograd.Function):
    """The gradients are made beside the loss, while the logits of some rows are at hand: no (n, V) tensor lives on.

    They are added up and kept in float32: the gradient of the total, which is fairseq's scale of the loss in fp16, is known
    in `backward` alone, and what is rounded to zero before it cannot be scaled up again.
    """

    @staticmethod
    def forward(ctx, features, weight, target, row_weight, epsilon, needs_gradient):
        device = features.device.type
        dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else weight.dtype
        x, projection = features.to(dtype), weight.to(dtype)
        nll = torch.empty(len(x), dtype=torch.float32, device=x.device)
        uniform = torch.empty_like(nll)  # mean of -log p over the vocabulary
        kept = torch.promote_types(dtype, torch.float32)
        scale = FP16_SCALE if dtype == torch.float16 else 1.0
        if needs_gradient:
            d_x, d_projection = torch.empty_like(x, dtype=kept), torch.zeros_like(projection, dtype=kept)
        rows = ROWS.get(device, ROWS_ELSEWHERE)
        with torch.autocast(device, enabled=False):
            for some in (slice(start, start + rows) for start in range(0, len(x), rows)):
                expected = target[some, None]
                lprobs = torch.log_softmax(x[some] @ projection.t(), dim=-1, dtype=torch.float32)
                nll[some] = -lprobs.gather(1, expected).squeeze(1)
                uniform[some] = -lprobs.mean(1)
                if needs_gradient:
                    d_logits = lprobs.exp_().sub_(epsilon / len(projection))
                    d_logits.scatter_add_(1, expected, d_logits.new_full(expected.shape, epsilon - 1))
                    d_logits = d_logits.mul_(scale * row_weight[some, None]).to(dtype)
                    d_x[some] = d_logits @ projection
                    if dtype == kept:
                        d_projection.addmm_(d_logits.t(), x[some])
                    else:  # sums over rows are large enough without the scale, and fp16 has an upper end too
                        d_projection += d_logits.t() @ (x[some] / scale)
        if needs_gradient:
            ctx.save_for_backward(d_x.div_(scale) if scale != 1 else d_x, d_projection)
            ctx.dtypes = features.dtype, weight.dtype
        loss = (1 - epsilon) * nll + epsilon * uniform
        ctx.mark_non_differentiable(loss, nll)
        return (loss * row_weight).sum(), loss, nll

    @staticmethod
    def backward(ctx, gradient, *_):
        d_features, d_weight = ctx.saved_tensors
        of_features, of_weight = ctx.dtypes
        return (d_features * gradient).to(of_features), (d_weight * gradient).to(of_weight), None, None, None, None


def linear_nll(
    features: Tensor, weight: Tensor, target: Tensor, row_weight: Tensor, epsilon: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Label-smoothed cross-entropy of `features @ weight.T`, log-softmax in float32.

    The smoothed loss of a row is `(1 - eps) * nll + eps / V * sum_v -log p_v`. Only the first output
    has a gradient. It is the function that `F.linear` and `F.cross_entropy` make, without their
    tensors of (n, V).

    Args:
        features: (n, D). weight: the output layer's, (V, D). target: (n).
        row_weight: weight of each row in the sum, (n).
        epsilon: label smoothing.
    Returns:
        The weighted sum of the smoothed losses, these losses (n) and their nll (n), in float32.
    """
    # within `forward` autograd is off, and `ctx.needs_input_grad` is True under `no_grad` too
    needs_gradient = torch.is_grad_enabled() and (features.requires_grad or weight.requires_grad)
    return _LinearNll.apply(features, weight, target, row_weight, epsilon, needs_gradient)
