"""Weights from elsewhere that a new model starts from."""

from .adapt import adapt, read_pretrained

__all__ = ["adapt", "read_pretrained"]
