#!/usr/bin/env bash
# Pretrains BANG with the published hyper-parameters: `bang pretrain`, see its --help.
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
PYTHONPATH=$root${PYTHONPATH:+:$PYTHONPATH} exec python -m bang pretrain "$@"
