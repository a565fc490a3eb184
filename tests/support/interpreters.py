"""The Pythons of this machine that the package is declared for."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def declared() -> list[str]:
    """Versions among the package's classifiers."""
    return re.findall(r'^    "Programming Language :: Python :: (3\.\d+)"', (ROOT / "pyproject.toml").read_text(), flags=re.M)


def _works(python: str, version: str) -> bool:
    code = "import sys; print('%d.%d' % sys.version_info[:2])"
    done = subprocess.run([python, "-c", code], capture_output=True, text=True)
    return done.returncode == 0 and done.stdout.strip() == version


def interpreters() -> dict[str, str]:
    """{version: path}: this one, those of the search path, and those of pyenv."""
    found = {}
    for version in declared():
        places = sorted(map(str, Path.home().glob(f".pyenv/versions/{version}.*/bin/python")))
        own = [sys.executable] if _works(sys.executable, version) else []
        for python in [*own, *filter(None, [shutil.which(f"python{version}")]), *places]:
            if _works(python, version):
                found[version] = python
                break
    return found


INTERPRETERS = interpreters()
