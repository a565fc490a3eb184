"""Pretraining data: text in blocks, spans of them hidden, and the task that reads them.

Read in this order: `masking` (what is hidden in one block), `dataset` (blocks
out of binarized text, batches out of blocks), `task` (`--task bang_pretraining`).
"""
