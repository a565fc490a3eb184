#!/usr/bin/env bash
# Runs the tests in a virtual environment of their own; further arguments go to pytest.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
source "$root/scripts/environment.sh" test pytest
cd "$root"
exec python -m pytest -q "$@"
