#!/usr/bin/env bash
# A student learns from what an AR teacher writes: bang distill, in an environment that is made on first use. See --help.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
source "$root/scripts/environment.sh" recipes rouge_score matplotlib
PYTHONPATH=$root${PYTHONPATH:+:$PYTHONPATH} exec python -m bang distill "$@"
