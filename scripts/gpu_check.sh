#!/usr/bin/env bash
# Checks what needs a GPU and measures speed there; see --help.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
python=${PYTHON:-python3}

usage() {
    cat <<'END'
usage: scripts/gpu_check.sh [WHEELS] [--out FILE] [--logs DIR] [--updates N]
       scripts/gpu_check.sh --fetch WHEELS [PYTHON_VERSION]

Runs the GPU tests, trains in float32, fp16, bf16 and amp, decodes in every mode and trains under torchrun, up to 12 of
these side by side; then measures speeds, alone. Writes what passed, how fast, on which hardware and versions.

  WHEELS       a folder of wheels for what this machine's Python lacks beside torch, which needs no internet then;
               --fetch makes one on a machine that has internet, for Python 3.12 on Linux unless told otherwise;
               leave it out where all packages can be imported
  --out FILE   the report (docs/gpu.md)
  --logs DIR   keep all that the failed steps printed here, a file each
  --updates N  of each training that is checked (40)

environment: PYTHON (python3), the interpreter whose torch sees the GPU
END
}

case ${1:-} in
    -h | --help) usage; exit ;;
    --fetch)
        [ $# -ge 2 ] || { usage >&2; exit 2; }
        "$python" -m pip download --quiet --no-deps --only-binary=:all: --python-version "${3:-3.12}" \
            --implementation cp --platform manylinux_2_28_x86_64 --platform manylinux_2_17_x86_64 \
            --platform manylinux2014_x86_64 --dest "$2" --constraint "$root/requirements.txt" \
            ve-fairseq hydra-core omegaconf bitarray cffi pycparser tensorboardX safetensors tokenizers
        exec "$python" -m pip wheel --quiet --no-deps --wheel-dir "$2" --constraint "$root/requirements.txt" \
            antlr4-python3-runtime==4.9.3 rouge-score nltk defusedxml
        ;;
esac
if ! "$python" -c 'import sys, torch; sys.exit(not torch.cuda.is_available())' 2>/dev/null; then
    echo "gpu_check.sh: no GPU that the torch of $python can use: run this on a machine with one" >&2
    exit 1
fi
if [[ $# -gt 0 && $1 != -* ]]; then
    site=$(mktemp -d)
    trap 'rm -rf "$site"' EXIT
    "$python" -m pip install --quiet --no-index --no-deps --no-compile --target "$site" "$1"/*.whl
    shift
    export PYTHONPATH=$site${PYTHONPATH:+:$PYTHONPATH}
fi
export PYTHONPATH=$root${PYTHONPATH:+:$PYTHONPATH}
"$python" "$root/scripts/gpu_check.py" --out "$root/docs/gpu.md" "$@"
