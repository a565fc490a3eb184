"""The fused Adam against fairseq's."""

import copy
import inspect

import torch
from fairseq.optim.adam import Adam

from bang.plugin.optimizer import MASTER, fused_step, plain_step


def test_the_same_updates_and_state_as_fairseqs():
    torch.manual_seed(0)
    ours = [torch.nn.Parameter(torch.randn(3, 4)), torch.nn.Parameter(torch.randn(5)), torch.nn.Parameter(torch.randn(2))]
    theirs = [torch.nn.Parameter(p.detach().clone()) for p in ours]
    options = dict(lr=0.01, betas=(0.9, 0.98), eps=1e-3, weight_decay=0.1)  # a large eps shows where it is added
    fused, reference = Adam(ours, **options), Adam(theirs, **options)
    for update in range(5):
        for group in (*fused.param_groups, *reference.param_groups):
            group["lr"] = 0.01 / (update + 1)
        for p, q in zip(ours, theirs):
            q.grad = torch.randn_like(q) if p is not ours[2] or update > 2 else None  # one joins late
            p.grad = None if q.grad is None else q.grad.clone()
        fused_step(fused)
        plain_step(reference)
        for p, q in zip(ours, theirs):
            torch.testing.assert_close(p, q, rtol=1e-6, atol=1e-7)
        if update == 1:  # what one saved, the other resumes from
            states = copy.deepcopy(fused.state_dict()), copy.deepcopy(reference.state_dict())
            assert states[0]["state"][0].keys() == states[1]["state"][0].keys()
            fused.load_state_dict(states[1])
            reference.load_state_dict(states[0])


def test_other_precisions_take_fairseqs_way():
    p = torch.nn.Parameter(torch.ones(3, dtype=torch.bfloat16))
    p.grad = torch.ones_like(p)
    fused_step(Adam([p], lr=0.5))
    assert torch.allclose(p.float(), torch.full((3,), 0.5))


def test_fairseq_steps_so():
    assert inspect.unwrap(Adam.step) is fused_step  # torch wraps it at the first use


def test_half_precision_resumes_with_the_weights_that_it_had(train_here, tmp_path):
    """A model's own weights are rounded, and less than a rounding is what an update changes."""
    half, folders = ["--bf16", "--lr", "0.0001"], [tmp_path / "whole", tmp_path / "stopped"]
    train_here("--max-update", "6", *half, "--save-dir", folders[0])
    for updates in ("3", "6"):
        train_here("--max-update", updates, *half, "--save-dir", folders[1])
    ends = [torch.load(folder / "checkpoint_last.pt") for folder in folders]
    for name, weight in ends[0]["model"].items():
        assert torch.equal(weight, ends[1]["model"][name]), name
    masters = [end["last_optimizer_state"][MASTER] for end in ends]
    assert all(torch.equal(a, b) for a, b in zip(*masters, strict=True))
    assert masters[0][0].dtype == torch.float32 and not torch.equal(masters[0][0], masters[0][0].bfloat16().float())
