"""The GPUs that a command may use, found without the seconds that importing torch takes."""

import itertools
import os
import subprocess


def gpu_count() -> int:
    """GPUs that a command may use."""
    return len(gpu_devices())


def gpu_devices() -> list[str]:
    """The GPUs that a command may use, each by a name that CUDA_VISIBLE_DEVICES takes.

    Where that variable is set they are those that it names, up to the first that is not there, as CUDA reads it.
    """
    try:
        done = subprocess.run(["nvidia-smi", "--list-gpus"], capture_output=True, text=True)
    except FileNotFoundError:
        return []
    # a GPU's parts (MIG) follow it, indented
    count = sum(line.startswith("GPU ") for line in done.stdout.splitlines()) if done.returncode == 0 else 0
    there = [str(number) for number in range(count)]
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is None or not there:
        return there
    names = (name.strip() for name in visible.split(","))
    return list(itertools.takewhile(lambda name: name in there or name.startswith(("GPU-", "MIG-")), names))
