"""The subcommands of `bang`, one module each, found by its name.

A module has `HELP` (one line), `add_arguments(parser)` and `run(args)`; its docstring is the text of `--help`. Listing the
commands imports every module, so heavy packages (torch, fairseq) are imported inside `run`. A user's mistake is a UserError or
OSError of one line, which `bang.__main__` prints. Modules that begin with `_` are shared by the others.
"""
