#!/usr/bin/env bash
# Does pretraining help, and how many streams should it have? See --help.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
source "$root/scripts/environment.sh" recipes rouge_score matplotlib
exec python "$root/research/evidence.py" "$@"
