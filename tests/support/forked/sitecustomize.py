"""Python imports this module at its start where its folder is on PYTHONPATH: see forked_commands.py.

It hands the command lines that would import torch to the process that has it, and ends with their exit status.
"""

import os

from fork_client import SOCKET, run_elsewhere, torch_command

if SOCKET in os.environ and (_words := torch_command()):
    _code = run_elsewhere(os.environ[SOCKET], _words, os.getcwd(), os.environ, [0, 1, 2])
    if _code < 0:
        os.kill(os.getpid(), -_code)
    os._exit(_code)
