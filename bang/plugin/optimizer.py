"""fairseq's optimizers, mended: Adam in one pass over memory on a CPU, and half precision that resumes exactly."""

import math

import torch
from fairseq.optim.adam import Adam
from fairseq.optim.fp16_optimizer import FP16Optimizer
from torch import Tensor
from torch.optim.adamw import adamw

plain_step = Adam.step
plain_state, plain_load = FP16Optimizer.state_dict, FP16Optimizer.load_state_dict

MASTER = "master_weights"
"""Where an optimizer's state has the float32 weights of --fp16 and --bf16."""


def fused_step(self: Adam, closure=None):
    """One update of fairseq's Adam, with the same numbers and the same state.

    float32 parameters on a CPU go through torch's fused kernel: fairseq's own step makes a dozen passes
    over the parameters, which takes longer than a fifth of an update of a small model there.
    """
    parameters = [p for group in self.param_groups for p in group["params"] if p.grad is not None]
    if not all(p.device.type == "cpu" and p.dtype == p.grad.dtype == torch.float32 for p in parameters):
        return plain_step(self, closure)
    loss = None if closure is None else closure()
    for group in self.param_groups:
        parameters = [p for p in group["params"] if p.grad is not None]
        for p in parameters:
            if not self.state[p]:
                self.state[p].update(step=0, exp_avg=torch.zeros_like(p), exp_avg_sq=torch.zeros_like(p))
            self.state[p]["step"] += 1
        beta1, beta2 = group["betas"]
        for step in {self.state[p]["step"] for p in parameters}:
            of_step = [p for p in parameters if self.state[p]["step"] == step]
            states = [self.state[p] for p in of_step]
            adamw(
                [p.detach() for p in of_step],
                [p.grad for p in of_step],
                [state["exp_avg"] for state in states],
                [state["exp_avg_sq"] for state in states],
                [],
                [torch.tensor(step - 1.0) for _ in states],  # the kernel counts on
                fused=True,
                amsgrad=False,
                beta1=beta1,
                beta2=beta2,
                lr=group["lr"],
                weight_decay=group["weight_decay"],
                eps=group["eps"] / math.sqrt(1 - beta2**step),  # fairseq adds eps before the bias correction
                maximize=False,
            )
    return loss


def use_fused_adam() -> None:
    """Lets `--optimizer adam` step so."""
    Adam.step = fused_step


def _master_weights(optimizer: FP16Optimizer) -> list[Tensor]:
    """The float32 weights that the optimizer updates."""
    weights = optimizer.fp32_params
    if isinstance(weights, Tensor):
        return [weights.data]
    return [weight.data for weight in (weights.values() if isinstance(weights, dict) else weights)]


def _state_with_master_weights(self: FP16Optimizer) -> dict:
    return {**plain_state(self), MASTER: _master_weights(self)}


def _load_with_master_weights(self: FP16Optimizer, state_dict: dict, optimizer_overrides: dict | None = None) -> None:
    saved = state_dict.get(MASTER, ())
    plain_load(self, {name: value for name, value in state_dict.items() if name != MASTER}, optimizer_overrides)
    weights = _master_weights(self)
    if [weight.shape for weight in saved] == [weight.shape for weight in weights]:
        for weight, value in zip(weights, saved):
            weight.copy_(value)


def keep_master_weights() -> None:
    """Keeps the float32 weights of --fp16 and --bf16 in checkpoints: a run would resume from the model's, which are rounded."""
    FP16Optimizer.state_dict, FP16Optimizer.load_state_dict = _state_with_master_weights, _load_with_master_weights
