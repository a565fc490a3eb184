"""The subcommands of `bang`, one module each, found by its name.

A module has `HELP` (one line), `add_arguments(parser)`, `run(args)`, and in its docstring what its `--help` says. It is
imported to list the commands, so it imports what is heavy (torch, fairseq) inside `run` alone. A user's mistake is a
ValueError or OSError of one line, which `bang.__main__` prints. Modules that begin with `_` are shared by the others.
"""
