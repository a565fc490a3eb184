"""Checkpoints of strangers: `files` says what a file may hold, `settings` what it may name, `hooks` where fairseq asks."""
