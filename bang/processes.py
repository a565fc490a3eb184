"""Processes that belong together: a child ends with its parent, and one process at a time works in a folder."""

import contextlib
import functools
import os
import shlex
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import FrameType
from typing import Any, BinaryIO

from .errors import UserError

LOCK = ".lock"
"""Name of the lock file in a folder that a process works in. It names the process, which holds the lock while it lives."""
WATCH = 0.5
"""Seconds between two checks of the parent, on systems without a signal for its end."""
AGAIN = 2.0
"""Seconds after which a further signal ends a process at once: one Ctrl-C may come as two signals."""
_PR_SET_PDEATHSIG = 1

_held: dict[Path, BinaryIO] = {}


@functools.cache
def _prctl() -> Callable[[int, int], int] | None:
    """Linux's system call that asks for a signal at the parent's end; None on other systems."""
    if sys.platform != "linux":
        return None
    import ctypes

    return ctypes.PyDLL(None).prctl  # keeps the GIL: a child between fork and exec must not wait for it


def end_with_parent(parent: int, number: int | None = None) -> None:
    """Called in a child process: it gets a signal when its parent ends, even if that is killed.

    On Linux the end of the thread that started the child counts.

    Args:
        parent: the parent's process id, read before the child was started.
        number: the signal; None: SIGKILL (not the default value, because Windows lacks it).
    """
    number = signal.SIGKILL if number is None else number
    prctl = _prctl()
    if prctl is None:
        threading.Thread(target=_watch, args=(parent, number), daemon=True).start()
        return
    prctl(_PR_SET_PDEATHSIG, number)
    if os.getppid() != parent:  # the parent has ended already
        os.kill(os.getpid(), number)


def _watch(parent: int, number: int) -> None:
    while os.getppid() == parent:
        time.sleep(WATCH)
    os.kill(os.getpid(), number)


@contextlib.contextmanager
def started(words: Sequence[str], **options: Any) -> Iterator[subprocess.Popen]:
    """A program as with subprocess.Popen; it gets SIGTERM at an error, and when this process ends, even if this is killed."""
    if _prctl() is not None:
        follow = functools.partial(end_with_parent, os.getpid(), signal.SIGTERM)
        with subprocess.Popen(words, preexec_fn=follow, **options) as process, _ended_by_errors(process):
            yield process
        return
    with subprocess.Popen(words, **options) as process, _ended_by_errors(process):
        # a shell that waits for input from this process: its read ends when this process does
        watch = ["sh", "-c", f"trap '' INT TERM; read -r _; kill {process.pid}"]
        with subprocess.Popen(watch, stdin=subprocess.PIPE) as watcher:
            try:
                yield process
                process.wait()
            finally:
                watcher.kill()


@contextlib.contextmanager
def _ended_by_errors(process: subprocess.Popen) -> Iterator[None]:
    try:
        yield
    except BaseException:  # Ctrl-C, a terminal that is gone: the program must not go on alone
        process.terminate()
        raise


def exit_status(process: subprocess.Popen) -> int:
    """The status of a program that has ended, as a shell tells it: 128 and the signal's number where one ended it."""
    return process.returncode if process.returncode >= 0 else 128 - process.returncode


@contextlib.contextmanager
def orderly_end() -> Iterator[None]:
    """SIGTERM (status 143) and Ctrl-C end what runs within by an exception: no half file stays, and a training saves.

    While a module is imported they end the process at once: nothing is half done then, and libraries take an exception for
    a failed import, go on without, or show a traceback. Signals that are ignored, as under nohup, stay so.
    """
    first: list[float] = []

    def end(number: int, frame: FrameType | None) -> None:
        if _imports(frame) or first and time.monotonic() - first[0] > AGAIN:
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)
        if not first:
            first.append(time.monotonic())
            raise KeyboardInterrupt if number == signal.SIGINT else SystemExit(128 + number)

    plain = (signal.SIG_DFL, signal.default_int_handler)
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    before = {number: handler for number, handler in before.items() if handler in plain}
    try:
        for number in before:
            signal.signal(number, end)
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)  # a program that calls this has its own way to end


def _imports(frame: FrameType | None) -> bool:
    """Whether a module is being imported there."""
    while frame is not None and frame.f_globals.get("__name__") != "importlib._bootstrap":
        frame = frame.f_back
    return frame is not None


def try_lock(file: int) -> bool | None:
    """Locks an open file until it is closed or its holder ends, even if that is killed.

    Args:
        file: its descriptor; forked workers hold the lock too, until they close it.

    Returns:
        Whether this process has the lock; None where files cannot be locked.
    """
    try:
        import fcntl
    except ModuleNotFoundError:  # Windows
        return None
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        return False
    except OSError:  # a file system without locks
        return None
    return True


def is_at(file: int, path: Path) -> bool:
    """Whether an open file is still the one at this path: its holder may have removed it."""
    try:
        return os.path.samestat(os.fstat(file), os.stat(path))
    except FileNotFoundError:
        return False


def hold_folder(folder: str | os.PathLike[str]) -> Callable[[], None]:
    """Reserves a folder for this process, until it calls the returned function or ends, even if it is killed.

    Does nothing where files cannot be locked or the folder cannot be written.

    Raises:
        UserError: another live process works there; one line names it.
    """
    path = Path(os.path.realpath(folder), LOCK)
    if path in _held:
        return lambda: None
    while True:
        try:
            file = open(path, "a+b")
        except OSError:  # the first write there will say why
            return lambda: None
        locked = try_lock(file.fileno())
        if locked and is_at(file.fileno(), path):
            break
        with file:
            if locked is None:
                return lambda: None
            if locked is False:
                file.seek(0)
                holder = file.read(300).decode("utf-8", "replace").strip() or "another process"
                raise UserError(f"{folder}: {holder} works there: wait for it, end it, or give another folder")
    _held[path] = file
    with contextlib.suppress(OSError):  # on a full disk the lock holds too
        file.truncate(0)
        file.write(_describe().encode())
        file.flush()
    return functools.partial(_release, path)


def _describe() -> str:
    words = shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]).replace("\n", " ")
    shown = words if len(words) <= 120 else f"{words[:117]}..."
    return f"process {os.getpid()} on {socket.gethostname()} ({shown})"


def _release(path: Path) -> None:
    file = _held.pop(path, None)
    if file is not None:
        with file, contextlib.suppress(OSError):
            path.unlink(missing_ok=True)


def _let_go() -> None:
    """Closes the locks in a forked worker, which may outlive its killed parent."""
    for file in _held.values():
        file.close()
    _held.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_let_go)
