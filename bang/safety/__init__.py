"""Untrusted checkpoints: `files` says what a file may hold, `settings` what it may name; `hooks` makes fairseq use both."""
