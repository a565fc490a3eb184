"""`UserError`: a mistake of the user. Command lines print it as one line; our own bugs keep their traceback."""

import contextlib
import os
import re
import sys
from collections.abc import Iterator

NO_NUMBERS = "computes no numbers (NaN): its weights are damaged, or too large for its precision"
"""Of a model, behind its name; what it would write is nonsense."""
_IN_WORKER = re.compile(r"^bang\.errors\.UserError: (.+)\s*\Z", flags=re.M)


class UserError(ValueError):
    """A mistake that the user can mend; its message is one line that says what is wrong and what to do."""


def shows_tracebacks() -> bool:
    """Whether a user's mistake is shown with its traceback too: BANG_TRACEBACK=1, or LOGLEVEL=DEBUG, which fairseq reads."""
    return os.environ.get("BANG_TRACEBACK", "0") not in ("", "0") or os.environ.get("LOGLEVEL", "").upper() == "DEBUG"


@contextlib.contextmanager
def damaged(path: str | os.PathLike[str]) -> Iterator[None]:
    """While a stranger's file is made a model: what goes wrong there that nothing has foreseen is the file's fault.

    Raises:
        UserError: one line, with the file's name.
    """
    try:
        yield
    except (UserError, OSError, ImportError):
        raise
    except Exception as error:
        reason = (str(error).strip().splitlines() or [""])[0]
        raise UserError(
            f"{path}: damaged, or made for another version of bang ({type(error).__name__}: {reason:.200}); BANG_TRACEBACK=1 "
            "shows where"
        ) from error


def user_error_message(error: BaseException) -> str | None:
    """The one line to print for a user's mistake; None for any other error, which needs its traceback.

    A mistake is a `UserError`, or an `OSError`: a file that is not there or may not be read. A DataLoader's worker and a
    spawned process hand their errors on as text, a traceback whose last line is the mistake.
    """
    in_worker = _IN_WORKER.search(str(error))
    if in_worker is not None:
        return in_worker[1]
    if isinstance(error, UserError):
        return str(error)
    if not isinstance(error, OSError):
        return None
    if error.strerror is None:  # raised on purpose, in words of its own
        return str(error)
    reason = error.strerror[:1].lower() + error.strerror[1:]  # without the system's number
    return reason if error.filename is None else f"{error.filename}: {reason}"


@contextlib.contextmanager
def exit_on_mistakes(program: str) -> Iterator[None]:
    """In a command line: a user's mistake ends it with one line and status 1."""
    try:
        yield
    except (OSError, UserError) as error:
        if shows_tracebacks():
            raise
        sys.exit(f"{program}: error: {user_error_message(error)}")
