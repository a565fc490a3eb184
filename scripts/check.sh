#!/usr/bin/env bash
# The checks that need no test: style (ruff), types (mypy), and that imports run downwards (import-linter).
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
source "$root/scripts/environment.sh" test ruff mypy importlinter
cd "$root"
ruff check .
ruff format --check .
mypy
lint-imports --no-cache
