#!/usr/bin/env bash
# Fine-tunes BANG with the published hyper-parameters: `bang finetune`, see its --help.
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
PYTHONPATH=$root${PYTHONPATH:+:$PYTHONPATH} exec python -m bang finetune "$@"
