"""Killing commands, and what is left of them."""

import contextlib
import hashlib
import os
import re
import signal
import subprocess
import time
from pathlib import Path


def ended(process: int, within: float) -> bool:
    """Whether a process is gone, or is so after at most `within` seconds; one that nobody has waited for is gone too."""
    end = time.monotonic() + within
    while True:
        try:
            if Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] in "ZX":
                return True
        except (FileNotFoundError, ProcessLookupError):
            return True
        if time.monotonic() > end:
            return False
        time.sleep(0.02)


@contextlib.contextmanager
def lines(words, **options):
    """A process with pipes to its stdin and stdout, and its first line; it is killed at the end."""
    process = subprocess.Popen(
        [str(word) for word in words], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
        bufsize=1, **options,
    )  # fmt: skip
    try:
        yield process, process.stdout.readline()
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
        with contextlib.suppress(OSError):
            process.stdin.close()


def forked(function, seconds=60):
    """Runs a function in a forked process; its truth."""
    child = os.fork()
    if child == 0:
        try:
            os._exit(0 if function() else 1)
        finally:
            os._exit(2)
    for _ in range(20 * seconds):
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status) == 0
        time.sleep(0.05)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return None


def of_session(session: int) -> list[int]:
    """The living processes of a session."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError, IndexError):
            fields = path.read_text().rpartition(")")[2].split()
            if int(fields[3]) == session and fields[0] not in "ZX":
                found.append(int(path.parent.name))
    return found


class Killed:
    """A command that was killed.

    Attributes:
        in_time: whether it still ran.
        said: what it printed.
        children: processes of it that lived on, `grace` seconds later; they are killed then.
    """

    def __init__(self, words, when, log: Path, whole: bool, grace: float = 10, env=None):
        """Runs a command in a session of its own until `when(seconds, log)` is true, and kills it: all of it, or it alone."""
        with open(log, "wb") as file:
            process = subprocess.Popen([str(word) for word in words], stdout=file, stderr=file, env=env, start_new_session=True)
        start = time.monotonic()
        while process.poll() is None and not when(time.monotonic() - start, log):
            time.sleep(0.02)
        self.in_time = process.poll() is None
        if self.in_time:
            (os.killpg if whole else os.kill)(process.pid, signal.SIGKILL)
        process.wait(120)
        end = time.monotonic() + grace
        while of_session(process.pid) and time.monotonic() < end:
            time.sleep(0.05)
        self.children = of_session(process.pid)
        for child in self.children:
            with contextlib.suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)
        self.said = log.read_text(errors="replace")


def after(limit: float):
    """For `Killed`: so many seconds after the start."""
    return lambda seconds, _: seconds > limit


def logged(text: str):
    """For `Killed`: once the command has said `text`."""
    return lambda _, log: text in log.read_text(errors="replace")


def content(folder: Path, but: str = r"$^") -> dict[str, str]:
    """A digest of each file below a folder whose name does not match `but`."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {
        name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in files
        if not re.search(but, name := str(path.relative_to(folder)))
    }


def strays(folder: Path) -> list[str]:
    """What is left half written."""
    return [path.name for path in folder.rglob("*") if path.name.endswith((".tmp", ".unfinished"))]
