#!/usr/bin/env bash
# From a folder of text to results: bang run-task, in an environment that is made on first use. See --help.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
source "$root/scripts/environment.sh" recipes rouge_score matplotlib
PYTHONPATH=$root${PYTHONPATH:+:$PYTHONPATH} exec python -m bang run-task "$@"
