"""Recipes: many commands in the right order, each run once for the inputs that it has. Nothing here imports torch or fairseq."""
