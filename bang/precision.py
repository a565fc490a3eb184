"""Which precision trains fastest here: `python -m bang.precision` prints fairseq-train's option for it, if any.

A GPU takes --fp16. Of CPUs with bf16 instructions some multiply matrices twice as fast with them, others slower
than in float32, so the two are timed against each other.
"""

import time

import torch

WORTH = 1.2
"""How much faster than float32 bf16 must multiply to pay: an update also copies between the two."""


def matmul_seconds(dtype: torch.dtype) -> float:
    """Seconds of the product of a feed-forward layer, 2048 tokens, 384 to 1536; the best of some."""
    x, weight = torch.ones(2048, 384, dtype=dtype), torch.ones(1536, 384, dtype=dtype)

    def once() -> float:
        start = time.perf_counter()
        torch.nn.functional.linear(x, weight)
        return time.perf_counter() - start

    once()
    return min(once() for _ in range(10))


def training_option() -> str:
    """`--fp16`, `--bf16`, or nothing for float32."""
    if torch.cuda.is_available():
        return "--fp16"
    return "--bf16" if matmul_seconds(torch.float32) > WORTH * matmul_seconds(torch.bfloat16) else ""


if __name__ == "__main__":
    print(training_option())
