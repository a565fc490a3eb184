#!/usr/bin/env bash
# Runs the tests in a virtual environment of their own; --all adds the long ones, further arguments go to pytest.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
source "$root/scripts/environment.sh" test pytest onnxruntime onnxscript hypothesis
cd "$root"
if [ "${1:-}" = --all ]; then
    exec python -m pytest -q "${@:2}"
fi
exec python -m pytest -q -m "not slow" "$@"
