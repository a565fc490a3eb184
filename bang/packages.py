"""How to install packages that are missing; standard library only."""

import os
import shlex
from importlib import metadata
from pathlib import Path

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
