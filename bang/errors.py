"""`UserError`: a mistake of the user. Command lines print it as one line; our own bugs keep their traceback."""

import contextlib
import re
import sys
from collections.abc import Iterator

_IN_WORKER = re.compile(r"^bang\.errors\.UserError: (.+)\s*\Z", flags=re.M)


class UserError(ValueError):
    """A mistake that the user can mend; its message is one line that says what is wrong and what to do."""


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
        sys.exit(f"{program}: error: {user_error_message(error)}")
