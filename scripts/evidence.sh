#!/usr/bin/env bash
# Does pretraining help, and how many streams should it have? See --help.
set -euo pipefail

usage() {
    cat <<'END'
usage: scripts/evidence.sh [--gpu] DATA OUT

The paper's comparison at a size that a CPU can run. A small model, new or with a public BERT's
weights, is pretrained on running text with --ngram 9 and with --ngram 1; these and the model as it
was are fine-tuned on pairs in each mode (nar, ar, semi-nar) for equally many updates; each
generates the test part in its own mode. Steps whose output exists are skipped, so the command can
be stopped and given again. When one fails, those beside it end, and no other begins.

  DATA  text.txt or text.txt.gz (documents separated by blank lines, the last 2 % are held out) and
        pairs, raw text a line each: train.src train.tgt valid.src valid.tgt test.src test.tgt
  OUT   folder for everything that is made; OUT/results.tsv is the table, OUT/means.tsv its means over SEEDS, OUT/*.png are
        the learning curves
  --gpu other defaults, behind the semicolons: for a GPU; it needs BERT

environment (defaults)            what
  SEEDS (1; 1 2 3)                --seed values, separated by blanks; each seed is a whole comparison
  BERT ()                         folder of a public BERT; its sizes take the place of WIDTH and LAYERS
  STARTS (ngram9 ngram1 scratch)  what to fine-tune: a pretrained model by its --ngram, or a new one; with BERT
                                  (bert+ngram9 bert+ngram1 bert scratch) the same, and BERT with and without them
  MODES (nar ar semi-nar)         modes to fine-tune
  WIDTH (128) LAYERS (2)          size of the model; heads are 32 wide, feed-forward 4 WIDTH
  DECODER_LAYERS (LAYERS, or 3)   with BERT 3 of its layers, evenly spread
  MIN_COUNT (60; 0)               the vocabulary is vocab.txt less the pieces that the text has more seldom,
                                  single characters kept; 0: all of it. The output layer is most of the cost
  LENGTH (128; 512)               word pieces of a block of text, and limit of sources and targets
  PRETRAIN_UPDATES (2400; 1000)   updates of pretraining, PRETRAIN_BATCH (16) blocks each
  FINETUNE_UPDATES (700; 600)     updates of fine-tuning, FINETUNE_BATCH (32; 48) pairs each
  LR (0.001, or 0.0004)           learning rate of fine-tuning, the second with BERT; it rises over the first sixteenth
                                  of the updates and falls to zero at the last
  PRETRAIN_LR (LR, or 0.0001)     learning rate of pretraining, the second with BERT, whose weights a higher one destroys
  CLIP (1.0) DROPOUT (0)          limit of the gradient's norm, and dropout, of both
  TRAIN ()                        further options of every fairseq-train, as "--fp16"
  BLOCK_SIZE (4)                  tokens that semi-NAR predicts at once
  BEAM (4)                        beam of AR
  JOBS (1; 12)                    trainings, or generations, at once: small ones leave a GPU mostly idle. More than one
                                  share the cores, unless OMP_NUM_THREADS is set
END
}

gpu=
case ${1:-} in
    -h | --help) usage; exit ;;
    --gpu)
        gpu=1
        shift
        : "${SEEDS=1 2 3}" "${MIN_COUNT=0}" "${LENGTH=512}" "${PRETRAIN_UPDATES=1000}" "${PRETRAIN_BATCH=16}"
        : "${FINETUNE_UPDATES=600}" "${FINETUNE_BATCH=48}" "${JOBS=12}"
        ;;
esac
if (($# != 2)); then usage >&2; exit 2; fi
data=$1 out=$2
repository=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
length=${LENGTH:-128} width=${WIDTH:-128} layers=${LAYERS:-2} block_size=${BLOCK_SIZE:-4} bert=${BERT:-} jobs=${JOBS:-1}
[[ -n $bert || -z $gpu ]] || { echo "evidence.sh: error: --gpu: give BERT=FOLDER" >&2; exit 2; }
[[ $jobs =~ ^[1-9][0-9]*$ ]] || { echo "evidence.sh: error: JOBS $jobs: give a number from 1" >&2; exit 2; }
source "$repository/scripts/environment.sh" recipes rouge_score matplotlib
mkdir -p "$out"
if [[ ! -f $out/precision ]]; then # one for all runs to be compared, measured once
    # shellcheck disable=SC2086
    python -m bang.recipes.precision ${TRAIN:-} > "$out/precision.new"
    mv "$out/precision.new" "$out/precision"
fi
precision=$(< "$out/precision")
rate=${LR:-0.001} pretraining_rate=${PRETRAIN_LR:-${LR:-0.001}}
if [[ -n $bert ]]; then
    rate=${LR:-0.0004} pretraining_rate=${PRETRAIN_LR:-0.0001}
    starts=${STARTS:-bert+ngram9 bert+ngram1 bert scratch}
    words=$(python -m bang starts "$bert")
    eval "sizes=($words)" # they are quoted for a shell
    sizes=("${sizes[@]::${#sizes[@]}-2}" --decoder-layers "${DECODER_LAYERS:-3}") # less --load-from-pretrained-model
else
    starts=${STARTS:-ngram9 ngram1 scratch}
    sizes=(
        --arch bang_ar_nar_mixed --activation-fn gelu --share-all-embeddings
        --encoder-layers "$layers" --encoder-embed-dim "$width" --encoder-ffn-embed-dim $((4 * width))
        --decoder-layers "${DECODER_LAYERS:-$layers}" --decoder-embed-dim "$width"
        --decoder-ffn-embed-dim $((4 * width))
        --encoder-attention-heads $((width / 32)) --decoder-attention-heads $((width / 32))
    )
fi
for start in $starts; do # a misspelt one would begin from noise
    case $start in
        scratch | ngram[1-9]*) ;;
        bert | bert+ngram[1-9]*) [[ -n $bert ]] || { echo "evidence.sh: error: STARTS $start: give BERT=FOLDER" >&2; exit 2; } ;;
        *) echo "evidence.sh: error: STARTS $start: choose scratch, ngramN, bert or bert+ngramN" >&2; exit 2 ;;
    esac
done
modes=${MODES:-nar ar semi-nar}
for mode in $modes; do # a misspelt one would train AR
    case $mode in
        nar | ar | semi-nar) ;;
        *) echo "evidence.sh: error: MODES $mode: choose nar, ar or semi-nar" >&2; exit 2 ;;
    esac
done

say() { echo "$(date +%T) $*"; }

fail() { # FOLDER LOG
    echo "evidence.sh: error: $1: $(error_line "$2")" >&2
    exit 1
}

# Splits documents, tokenizes, binarizes.
prepare() {
    mkdir -p "$out/raw" "$out/tokenized"
    say "documents to train and valid"
    local text="$out/raw/all"
    if [[ -f $data/text.txt.gz ]]; then gzip -dc "$data/text.txt.gz" > "$text"; else cp "$data/text.txt" "$text"; fi
    local documents
    documents=$(awk 'BEGIN { RS = "" } END { print NR }' "$text")
    awk -v train=$((documents - documents / 50)) -v to="$out/raw/text." \
        'BEGIN { RS = ""; ORS = "\n\n" } { print > (to (NR <= train ? "train" : "valid")) }' "$text"
    say "vocabulary and word pieces"
    python -m bang tokenize - < "$out/raw/text.train" | tr ' ' '\n' |
        awk -v least="${MIN_COUNT:-60}" 'NR == FNR { seen[$0]++; next }
            FNR <= 104 || $1 ~ /^(##)?[!-~]$/ || seen[$1] >= least' - "$repository/vocab.txt" > "$out/vocab.txt"
    say "$(wc -l < "$out/vocab.txt") pieces"
    python -m bang tokenize --vocab "$out/vocab.txt" --out-dir "$out/tokenized" \
        "$out"/raw/text.{train,valid} "$data"/{train,valid,test}.{src,tgt}
    say "binarizing"
    logged "$out/preprocess.log" python -m fairseq_cli.preprocess --user-dir "$repository/bang" --task bang_pretraining --only-source \
        --trainpref "$out/tokenized/text.train" --validpref "$out/tokenized/text.valid" \
        --srcdict "$out/vocab.txt" --destdir "$out/text"
    logged "$out/preprocess.log" python -m fairseq_cli.preprocess --user-dir "$repository/bang" --task translation_bang --source-lang src --target-lang tgt \
        --trainpref "$out/tokenized/train" --validpref "$out/tokenized/valid" --testpref "$out/tokenized/test" \
        --srcdict "$out/vocab.txt" --tgtdict "$out/vocab.txt" --destdir "$out/pairs"
}

# train FOLDER UPDATES RATE DATA OPTION...: trains once; the log, of a stopped run's beginning too, stands in FOLDER/train.log
# when all is done.
train() {
    local folder=$1 updates=$2 rate=$3
    shift 3
    [[ -f $folder/train.log ]] && return
    local began=$SECONDS
    say "training $folder"
    mkdir -p "$folder"
    python -m fairseq_cli.train "$@" --user-dir "$repository/bang" --save-dir "$folder" --tensorboard-logdir "$folder/tensorboard" --seed "$seed" \
        "${sizes[@]}" --dropout "${DROPOUT:-0}" \
        --max-source-positions "$length" --max-target-positions "$length" \
        --optimizer adam --adam-betas '(0.9, 0.999)' --weight-decay 0.01 --clip-norm "${CLIP:-1.0}" \
        --lr "$rate" --lr-scheduler polynomial_decay --warmup-updates $((updates / 16)) \
        --total-num-update "$updates" --max-update "$updates" $precision ${TRAIN:-} \
        --validate-interval-updates $((updates / 4 + 1)) --no-epoch-checkpoints --num-workers 0 --log-format json --log-interval 50 >> "$folder/running.log" 2>&1 \
        || fail "$folder" "$folder/running.log"
    mv "$folder/running.log" "$folder/train.log"
    say "trained $folder in $((SECONDS - began)) s"
}

pretrain() { # START, as bert+ngram9
    local from=()
    if [[ $1 == bert* ]]; then from=(--load-from-pretrained-model "$bert"); fi
    train "$out/seed$seed/$1" "${PRETRAIN_UPDATES:-2400}" "$pretraining_rate" "$out/text" --task bang_pretraining --criterion ngram_language_loss \
        --ngram "${1##*ngram}" "${from[@]}" \
        --tokens-per-sample "$length" --sample-break-mode none --batch-size "${PRETRAIN_BATCH:-16}"
}

finetune() { # MODE START
    local mode
    case $1 in
        nar) mode=(--nar-ratio 1) ;;
        semi-nar) mode=(--semi-nar-ratio 1 --block-size "$block_size") ;;
        ar) mode=(--nar-ratio 0) ;;
    esac
    case $2 in
        scratch) ;;
        bert) mode+=(--load-from-pretrained-model "$bert") ;;
        *) mode+=(--load-from-pretrained-model "$out/seed$seed/$2/checkpoint_last.pt") ;;
    esac
    train "$out/seed$seed/$1-from-$2" "${FINETUNE_UPDATES:-700}" "$rate" "$out/pairs" --task translation_bang --truncate-source --skip-invalid-size-inputs-valid-test \
        --criterion ngram_language_loss_NAR_mixed --label-smoothing 0.1 "${mode[@]}" \
        --length-bucket 8 --batch-size "${FINETUNE_BATCH:-32}"
}

generate() { # MODE START
    local folder=$out/seed$seed/$1-from-$2 mode=(--decoding "$1")
    [[ -f $folder/rouge ]] && return
    local began=$SECONDS
    say "generating $folder"
    if [[ $1 == ar ]]; then mode+=(--beam "${BEAM:-4}"); else mode+=(--beam 1); fi
    if [[ $1 == semi-nar ]]; then mode+=(--block-size "$block_size"); fi
    python -m fairseq_cli.generate "$out/pairs" --user-dir "$repository/bang" --task translation_bang "${mode[@]}" \
        --path "$folder/checkpoint_last.pt" --gen-subset test --batch-size 50 --max-len-b 40 \
        --truncate-source --max-source-positions "$length" > "$folder/generate.log" 2> "$folder/generate.err" \
        || fail "$folder" "$folder/generate.err"
    python -m bang collect "$folder/generate.log" "$folder/hypo" --source "$data/test.src"
    python "$repository/post_processed_nar.py" "$folder/hypo" "$folder/hypo.dedup"
    python "$repository/scripts/rouge.py" "$folder/hypo.dedup" "$data/test.tgt" > "$folder/rouge.new"
    mv "$folder/rouge.new" "$folder/rouge"
    say "generated $folder in $((SECONDS - began)) s"
}

# Every job, a line each, as job() takes them; pretrainings come first, as others wait for them.
plan() {
    local seeds=${SEEDS:-1} seed start mode
    for seed in $seeds; do for start in $starts; do if [[ $start == *ngram* ]]; then echo "$seed $start"; fi; done; done
    for seed in $seeds; do for mode in $modes; do for start in $starts; do echo "$seed $start $mode"; done; done; done
}

ready() { # SEED START [MODE]
    [[ -z ${3:-} || $2 != *ngram* || -f $out/seed$1/$2/train.log ]]
}

job() { # SEED START [MODE]: pretrains START; with MODE fine-tunes it and generates
    seed=$1
    if [[ -z ${3:-} ]]; then pretrain "$2"; else finetune "$3" "$2"; generate "$3" "$2"; fi
}

# Does the plan's jobs, JOBS at once: whenever one ends, the first that is ready begins.
pool() {
    local queue running=0 failed= i
    mapfile -t queue < <(plan | awk '!seen[$0]++')
    ((jobs == 1)) || export OMP_NUM_THREADS=${OMP_NUM_THREADS:-$((jobs < $(nproc) ? $(nproc) / jobs : 1))}
    trap stop EXIT
    trap 'exit 130' INT
    trap 'exit 143' TERM
    set -m # each job is a process group, which stop() ends as a whole
    while ((${#queue[@]} || running > 0)); do
        for i in "${!queue[@]}"; do
            ((running < jobs)) || break
            # shellcheck disable=SC2086
            if ready ${queue[i]}; then
                job ${queue[i]} < /dev/null &
                unset "queue[i]"
                running=$((running + 1))
            fi
        done
        wait -n || failed=1 queue=()
        running=$((running - 1))
    done
    set +m
    trap - EXIT INT TERM
    [[ -z $failed ]] || exit 1
}

stop() {
    local group
    for group in $(jobs -p); do kill -- "-$group" || true; done 2> /dev/null
    wait 2> /dev/null || true
}

# last LOG NAME: the last value that validation logged.
last() { sed -nE "s/.*\| valid \|.*\"valid_$2\": \"([^\"]*)\".*/\1/p" "$1" | tail -n 1; }

report() { # MODE START
    local folder=$out/seed$seed/$1-from-$2
    printf '%s\t%s\t%s\t%s\t%s\t%s\t%s\n' "$seed" "$1" "$2" "$(last "$folder/train.log" loss)" \
        "$(last "$folder/train.log" nll_loss)" "$(sed -E 's/ROUGE-[12L] //g; s/ +/\t/g' "$folder/rouge")" \
        "$(sort -u "$folder/hypo.dedup" | wc -l)" | tee -a "$out/results.tsv"
}

# Means over the seeds of each mode and start.
means() {
    awk -F '\t' -v OFS='\t' '
        NR == 1 { $1 = "seeds"; print; next }
        { key = $2 OFS $3; if (!seeds[key]++) order[++keys] = key; for (i = 4; i <= NF; i++) sum[key, i] += $i; columns = NF }
        END {
            for (k = 1; k <= keys; k++) {
                row = seeds[order[k]] OFS order[k]
                for (i = 4; i <= columns; i++) row = row OFS sprintf("%.3f", sum[order[k], i] / seeds[order[k]])
                print row
            }
        }' "$out/results.tsv" > "$out/means.tsv"
}

# curves NAME RUN...: one picture of the runs of a seed
curves() {
    local name=$out/seed$seed-$1.png logs=()
    shift
    for run in "$@"; do logs+=("$out/seed$seed/$run/train.log"); done
    python -m bang curves "${logs[@]}" "$name" --names "$@"
}

if [[ ! -f $out/pairs/test.src-tgt.tgt.idx ]]; then prepare; fi
pool
printf 'seed\tmode\tstart\tvalid loss\tvalid nll\tROUGE-1\tROUGE-2\tROUGE-L\tdistinct texts\n' > "$out/results.tsv"
for seed in ${SEEDS:-1}; do
    for mode in $modes; do
        for start in $starts; do
            report "$mode" "$start"
        done
        # shellcheck disable=SC2086
        curves "$mode" $(printf "$mode-from-%s " $starts)
    done
    pretrained=$(grep -o '\S*ngram\S*' <<< "$starts" || true)
    # shellcheck disable=SC2086
    if [[ -n $pretrained ]]; then curves pretraining $pretrained; fi
done
means
say "$out/results.tsv, after $SECONDS s"
