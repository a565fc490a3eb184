"""Recipes as the tests plan them, and what their commands say."""

from conftest import TINY

LITTLE = " ".join([*TINY[:-1], "--max-update", "4", "--warmup-updates", "2", "--num-workers", "0", "--log-interval", "2"])


def words(plan, name):
    """All words of a step's commands."""
    (step,) = (step for step in plan.steps if step.name == name)
    return [str(word) for command in step.commands for word in command.words]


def after(command, option):
    return command[command.index(option) + 1]
