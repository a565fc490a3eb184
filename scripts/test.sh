#!/usr/bin/env bash
# Runs the tests in a virtual environment of their own; --all adds the long ones, further arguments go to pytest.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
source "$root/scripts/environment.sh" test pytest xdist onnxruntime onnxscript hypothesis
cd "$root"
# one process a core; the tests of a file share what they set up
parallel=(-n "$(nproc)" --dist loadfile)
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
if [ "${1:-}" = --all ]; then
    exec python -m pytest -q "${parallel[@]}" "${@:2}"
fi
exec python -m pytest -q "${parallel[@]}" -m "not slow" "$@"
