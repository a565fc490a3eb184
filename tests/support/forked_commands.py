"""Command lines of `python -m`, each in a process of its own that is forked from one that has imported torch and fairseq.

So a command costs what it does, not the seconds that these imports take. The tests start this file as a script and call
`ForkedCommands.run`.
"""

import atexit
import json
import logging
import os
import runpy
import subprocess
import sys
import tempfile
import traceback


class ForkedCommands:
    """The process that is forked; it ends with `close`."""

    def __init__(self):
        self._process = subprocess.Popen(
            [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            env={**os.environ, "PYTHONWARNINGS": "ignore", "OMP_NUM_THREADS": "1"},
        )  # fmt: skip

    def run(self, module: str, *arguments: str, cwd=None, env: dict) -> subprocess.CompletedProcess:
        """As `subprocess.run([sys.executable, "-m", module, *arguments], capture_output=True, text=True)`."""
        with tempfile.TemporaryDirectory() as folder:
            outputs = [os.path.join(folder, name) for name in ("stdout", "stderr")]
            command = {"module": module, "arguments": arguments, "cwd": str(cwd or os.getcwd()), "env": env, "outputs": outputs}
            print(json.dumps(command), file=self._process.stdin, flush=True)
            code = int(self._process.stdout.readline())
            texts = []
            for output in outputs:
                with open(output, encoding="utf-8") as file:
                    texts.append(file.read())
        return subprocess.CompletedProcess([sys.executable, "-m", module, *arguments], code, *texts)

    def close(self) -> None:
        self._process.terminate()  # the end of its input may never come: workers that pytest has forked hold the pipe too
        with self._process:
            pass


def _run(command: dict) -> int:
    """Runs a command in this process, as the interpreter would; its exit status."""
    for output, number in zip(command["outputs"], (1, 2)):
        file = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(file, number)
        os.close(file)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.environ.clear()
    os.environ.update(command["env"])
    os.chdir(command["cwd"])
    sys.path[0] = command["cwd"]
    sys.argv[1:] = command["arguments"]
    logging.root.handlers.clear()  # fairseq's command lines set up how logs are printed before they import fairseq
    logging.root.setLevel(logging.WARNING)
    try:
        runpy.run_module(command["module"], run_name="__main__", alter_sys=True)
    except SystemExit as ended:
        if isinstance(ended.code, str):
            print(ended.code, file=sys.stderr)
        return ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    except BaseException:
        sys.excepthook(*sys.exc_info())
        return 1
    return 0


def _serve() -> None:
    import fairseq  # noqa: F401  (and torch, which takes most of the time)
    import fairseq.trainer  # noqa: F401

    answers = os.fdopen(os.dup(1), "w")
    for line in sys.stdin:
        child = os.fork()
        if not child:
            code = 1
            try:
                code = _run(json.loads(line))
                atexit._run_exitfuncs()
            except BaseException:
                traceback.print_exc()
            finally:
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(code)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), file=answers, flush=True)


if __name__ == "__main__":
    _serve()
