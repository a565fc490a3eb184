"""What this machine's CPUs are, as far as an exported model asks."""

import os
from pathlib import Path


def count() -> int:
    """How many CPUs this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def has_vnni() -> bool | None:
    """Whether the CPU sums products of 8-bit numbers without saturation; None where unknown."""
    flags = _flags()
    return any(name in flags for name in ("avx512_vnni", "avx_vnni", "asimddp")) if flags else None


def _flags() -> str:
    """The CPU's flags as Linux lists them; empty elsewhere."""
    try:
        return Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return ""
