"""Python command lines, each in a process of its own that is forked from one that has imported torch and fairseq.

So a command costs what it does, not the seconds that these imports take. `ForkedCommands.run` runs one. With
`ForkedCommands.environment`, a script's own `python -m bang`, `fairseq-train` and the like take this way too:
`forked/sitecustomize.py`, which Python imports at its start, hands them over and waits.
"""

import atexit
import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import tempfile
import traceback
from pathlib import Path

HOOK = Path(__file__).with_name("forked")
sys.path.append(str(HOOK))
from fork_client import SOCKET, run_elsewhere  # noqa: E402


class ForkedCommands:
    """The process that is forked; it ends with `close`."""

    def __init__(self):
        self._folder = tempfile.TemporaryDirectory()
        self._path = os.path.join(self._folder.name, "socket")
        environment = {**os.environ, "PYTHONWARNINGS": "ignore", "OMP_NUM_THREADS": "1"}
        command = [sys.executable, __file__, self._path]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL, env=environment)
        assert self._process.stdout.readline() == b"ready\n"

    def environment(self, *folders) -> dict[str, str]:
        """Variables with which Python command lines are forked from here; `folders` are of PYTHONPATH, after the hook's."""
        paths = [str(HOOK), *map(str, folders), *filter(None, [os.environ.get("PYTHONPATH")])]
        return {SOCKET: self._path, "PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}

    def run(self, *words: str, cwd=None, env: dict) -> subprocess.CompletedProcess:
        """As `subprocess.run([sys.executable, *words], capture_output=True, text=True)`, of a module or a script."""
        with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err, open(os.devnull) as nothing:
            files = [file.fileno() for file in (nothing, out, err)]
            code = run_elsewhere(self._path, words, str(cwd or os.getcwd()), env, files)
            out.seek(0)
            err.seek(0)
            return subprocess.CompletedProcess([sys.executable, *words], code, out.read().decode(), err.read().decode())

    def close(self) -> None:
        self._process.terminate()
        with self._process:
            pass
        self._folder.cleanup()


def _run(words: list[str], cwd: str, env: dict[str, str]) -> int:
    """Runs a command line in this process, as the interpreter would; its exit status."""
    # what this process was started with goes, and the command's own comes: the folder of the program and PYTHONPATH
    own = {os.path.dirname(os.path.abspath(__file__)), str(HOOK), *os.environ.get("PYTHONPATH", "").split(os.pathsep)}
    os.environ.clear()
    os.environ.update(env)
    os.chdir(cwd)
    is_module = words[0] == "-m"
    name, *arguments = words[1:] if is_module else words
    folder = cwd if is_module else os.path.dirname(os.path.realpath(name))
    first = [folder, *filter(None, env.get("PYTHONPATH", "").split(os.pathsep))]
    sys.path[:] = first + [path for path in sys.path if path not in own]
    sys.argv[:] = [name, *arguments]
    try:
        if is_module:
            runpy.run_module(name, run_name="__main__", alter_sys=True)
        else:
            runpy.run_path(name, run_name="__main__")
    except SystemExit as ended:
        if isinstance(ended.code, str):
            print(ended.code, file=sys.stderr)
        return ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    except BaseException:
        sys.excepthook(*sys.exc_info())
        return 1
    return 0


def _answer(connection: socket.socket) -> None:
    """Runs the command that comes through the connection in a child, and sends its exit status."""
    _, files, *_ = socket.recv_fds(connection, 1, 3)
    command = json.loads(connection.makefile().readline())
    child = os.fork()
    if not child:
        code = 1
        try:
            for number, file in enumerate(files):
                os.dup2(file, number)
                os.close(file)
            connection.close()
            code = _run(**command)
            atexit._run_exitfuncs()
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
    for file in files:
        os.close(file)
    with open(os.pidfd_open(child)) as ended:
        if connection in select.select([ended, connection], [], [])[0]:  # the process that waits was ended
            os.kill(child, signal.SIGTERM)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    connection.sendall(f"{code}\n".encode())


def _serve(path: str) -> None:
    import logging

    import fairseq  # noqa: F401  (and torch, which takes most of the time)
    import fairseq.trainer  # noqa: F401
    import torch._dynamo  # noqa: F401  (which every optimizer imports with its first step)
    from fairseq_configurations import parse_defaults, remember_configurations

    remember_configurations()
    parse_defaults()
    logging.root.handlers.clear()  # fairseq's command lines set up how logs are printed before they import fairseq
    logging.root.setLevel(logging.WARNING)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen(64)
        os.write(1, b"ready\n")
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        children = set()
        while True:
            connection, _ = listener.accept()
            child = os.fork()
            if not child:
                listener.close()
                try:
                    _answer(connection)
                finally:
                    os._exit(0)
            connection.close()
            children.add(child)
            children -= {child for child in children if os.waitpid(child, os.WNOHANG)[0]}


if __name__ == "__main__":
    _serve(sys.argv[1])
