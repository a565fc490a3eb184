# Sourced by the other scripts, or by hand: activates a virtual environment with bang in it, made on first use.
# usage: source scripts/environment.sh [EXTRA MODULE...]   (EXTRA: of setup.py, several with commas; MODULE: some that they bring)
# An active environment that has all that is needed is used as it is; else BANG_VENV names the folder (default
# .venv in the checkout) and PYTHON the interpreter (default python3).
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
extra=${1:-}
has() { "$1" -c 'import sys, importlib.util as u; sys.exit(not all(map(u.find_spec, sys.argv[1:])))' "${@:2}"; }
# ve-fairseq asks for torchaudio, which is built for CUDA: beside a CPU's torch it cannot be imported, and then none of
# transformers' models can. Nothing here uses it. An empty one takes its place, or the next pip install would bring it back.
has_broken_torchaudio() { has python torchaudio && ! python -c 'import torchaudio' 2>/dev/null; }
if ! { [ -n "${VIRTUAL_ENV:-}" ] && has python torch fairseq transformers tensorboardX "${@:2}" &&
    ! has_broken_torchaudio; }; then
    venv=${BANG_VENV:-$root/.venv}
    [ -x "$venv/bin/python" ] || "${PYTHON:-python3}" -m venv "$venv"
    source "$venv/bin/activate"
    if ! has python fairseq transformers tensorboardX "${@:2}"; then
        echo "installing bang${extra:+[$extra]} into $venv (once; some minutes)" >&2
        constraints=$root/requirements.txt
        if ! has python torch; then
            # no GPU: the CPU build, without gigabytes of CUDA packages, where it can be had
            { ! nvidia-smi >/dev/null 2>&1 && python -m pip install --quiet --retries 0 --timeout 15 -c "$constraints" torch \
                --index-url https://download.pytorch.org/whl/cpu 2>/dev/null; } ||
                python -m pip install --quiet -c "$constraints" torch
        fi
        python -m pip install --quiet -c "$constraints" "$root/scripts/no_torchaudio" -e "$root${extra:+[$extra]}"
    fi
    if has_broken_torchaudio; then
        # --no-deps and no index: it is there, and this may run offline
        python -m pip install --quiet --no-deps --no-index --no-build-isolation "$root/scripts/no_torchaudio" 2>/dev/null ||
            python -m pip install --quiet --no-deps "$root/scripts/no_torchaudio"
    fi
fi
export PYTHONPATH=$root${PYTHONPATH:+:$PYTHONPATH} # `python -m bang` from any folder
# threads that wait for each other sleep instead of spinning: a core busy with other work costs little then
export OMP_WAIT_POLICY=${OMP_WAIT_POLICY:-PASSIVE}
# glibc gives large buffers back to the kernel and takes them again page by page; keeping them makes training on
# a CPU several times as fast on some machines
export MALLOC_MMAP_MAX_=${MALLOC_MMAP_MAX_:-0} MALLOC_TRIM_THRESHOLD_=${MALLOC_TRIM_THRESHOLD_:-100000000000}
export THP_MEM_ALLOC_ENABLE=${THP_MEM_ALLOC_ENABLE:-1}
export PYTHONWARNINGS=${PYTHONWARNINGS:-ignore}

# error_line LOG: the line that tells why a program failed: the last that speaks of an error, or the last
error_line() {
    local last
    last=$(tail -n 40 "$1")
    { grep -iE 'error\b' <<<"$last" || grep . <<<"$last" || true; } | tail -n 1
}

# logged LOG COMMAND...: runs a command with all that it says added to LOG; where it fails, shows its line and ends the script
logged() {
    local log=$1 status=0
    shift
    "$@" >>"$log" 2>&1 || status=$?
    if ((status)); then
        echo "${0##*/}: error: $(error_line "$log") (all of it: $log)" >&2
        exit "$status"
    fi
}
