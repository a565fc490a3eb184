#!/usr/bin/env bash
# Scores of a model in each mode on a test part, from raw text to raw text; with its link too, where it has one.
# usage: research/score_model.sh MODEL DATA OUT     (MODEL: checkpoint or folder; DATA: folder with test.src and test.tgt)
# OUT gets the texts of each mode; the table goes to stdout.
set -euo pipefail
if (($# != 3)); then sed -n 2,4p "$0" >&2; exit 2; fi
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
source "$root/scripts/environment.sh" eval rouge_score
model=$1 data=$2 out=$3
mkdir -p "$out"
write() { python -m bang generate "$model" --truncate-source --max-len 40 "${@:2}" < "$data/test.src" > "$out/$1.txt"; }
write ar-beam-4 --mode ar --beam 4 --len-penalty 1.2
write ar-greedy --mode ar --beam 1
write speculative-4 --mode speculative --draft-length 4
write semi-nar-4 --mode semi-nar --block-size 4 --link none
write semi-nar-4-longer --mode semi-nar --block-size 4 --eos-penalty 1 --link none
write nar --mode nar --link none
systems=("$out"/{ar-greedy,ar-beam-4,speculative-4,semi-nar-4,semi-nar-4-longer,nar}.txt)
folder=$model
[[ -d $model ]] || folder=$(dirname "$model")
if [[ -e $folder/link.bin ]]; then
    write semi-nar-4-link --mode semi-nar --block-size 4
    write nar-link --mode nar
    write nar-link-rescore-4 --mode nar --rescore 4
    systems+=("$out"/{semi-nar-4-link,nar-link,nar-link-rescore-4}.txt)
fi
python -m bang evaluate "${systems[@]}" --reference "$data/test.tgt" --metrics rouge bleu faults --bootstrap 1000
