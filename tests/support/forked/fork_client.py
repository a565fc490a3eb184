"""How a Python command line is handed over to the process of forked_commands.py."""

import os
import sys

SOCKET = "BANG_TESTS_FORK_SERVER"
"""The environment variable that names the socket of the process that runs command lines."""


def run_elsewhere(path, words, cwd, env, files):
    """Has a command line run with these three open files as its stdin, stdout and stderr; its exit status, as of subprocess."""
    import json
    import socket

    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(path)
        socket.send_fds(connection, [b"f"], files)
        connection.sendall(json.dumps({"words": list(words), "cwd": cwd, "env": dict(env)}).encode() + b"\n")
        return int(connection.makefile().readline())


def torch_command():
    """The words after `python` where they run bang, fairseq or a script; else None."""
    words = sys.orig_argv[1:]
    while words[:1] == ["-W"]:
        words = words[2:]
    if words[:1] == ["-m"] and words[1].split(".")[0] in ("bang", "fairseq_cli"):
        return words
    if words and (words[0].endswith(".py") or os.path.basename(words[0]).startswith("fairseq-")):
        return words
    return None
