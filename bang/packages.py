"""How to install packages that are missing; standard library only."""

import importlib
import os
import shlex
from importlib import metadata
from pathlib import Path
from types import ModuleType

from .errors import UserError

CHECKOUT = Path(__file__).resolve().parents[1]


def install_command(package: str, extra: str = "") -> str:
    """The command that installs what an extra of setup.py brings, as `pip install '.[eval]'`; without one, what bang needs.

    Args:
        package: one of these, for where bang's own requirements are unknown.
    """
    extras = f"[{extra}]" if extra else ""
    if (CHECKOUT / "setup.py").is_file():
        folder = "." if os.path.realpath(os.curdir) == str(CHECKOUT) else str(CHECKOUT)
        return f"pip install {shlex.quote(folder + extras)}"
    # installed without its sources: 'bang' on a package index may be somebody else's
    try:
        required = [line.partition(";") for line in metadata.requires("bang") or ()]
    except metadata.PackageNotFoundError:
        required = []
    wanted = [name.strip() for name, _, when in required if (f'"{extra}"' in when if extra else "extra" not in when)]
    return f"pip install {shlex.join(wanted or [package])}"


def import_extra(module: str, extra: str) -> ModuleType:
    """Imports a module that an extra brings.

    Raises:
        UserError: it is not installed; one line that says how to install it.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        package = module.partition(".")[0]
        if (error.name or "").partition(".")[0] != package:
            raise
        raise UserError(f"needs {package}, which is not installed: {install_command(package, extra)}") from None
