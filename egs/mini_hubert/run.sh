#!/usr/bin/env bash
# hubert-mini: the small SSL model that is installed with voxtok, from speech to checkpoint and scores, on one CPU core.
# Run it again after a stop: it goes on.
#
#   DATA=/data/speech ./run.sh    real speech: folders of Lhotse manifests, CORPORA to train on and TEST to score on
#   GUIDED=0 ./run.sh             masked prediction alone: without iterations 5 to 11, which phones guide
#   GUIDED=synth ./run.sh         phones of synthetic speech, which no human labelled: without iterations 8 to 11
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
exp=${EXP:-$here/exp}
data=${DATA:-${VOXTOK_DATA:?give DATA, the folder of the real speech}}
corpora=${CORPORA:-librispeech_mini kathleen speechocean_adult_train vctk14}
test=${TEST:-sample}
steps=${STEPS:+--train.steps $STEPS --train.warmup_steps 1}

# Data: real speech without the test utterances, and 88 synthetic voices.
voxtok corpus synth --out "$exp/synth" --speakers "${SPEAKERS:-88}" --utterances 8 --seed 7
cuts=$(printf "$data/%s," $corpora)
voxtok corpus join --cuts "[${cuts%,}]" --without "$data/$test" --out "$exp/real.jsonl.gz"
voxtok corpus join --cuts "[$exp/real.jsonl.gz,$exp/synth/cuts.jsonl.gz]" --out "$exp/train.jsonl.gz"

# The convolutions learn to be a filter bank.
voxtok distill --config "$here/conf/distill_front.yaml" --cuts "$exp/train.jsonl.gz" --out "$exp/iter0" $steps

# tokens NAME UPSTREAM LAYER K HOURS CUTS: a codebook, and the tokens of the cuts.
tokens() {
    voxtok fit --upstream "$2" --layer "$3" --vocab-size "$4" --hours "$5" --cuts "$6" --dedup false --out "$exp/tokenizer_$1"
    voxtok encode --tokenizer "$exp/tokenizer_$1" --cuts "$6" --out "$exp/tokens_$1"
}

# iterate N STORES LABELS: train on from the model before.
iterate() {
    voxtok pretrain --config "$here/conf/pretrain_iter$1.yaml" --init "$exp/iter$(($1 - 1))/model" \
        --out "$exp/iter$1" --stores "[$2]" --labels "[$3]" $steps
}

# Iteration 1: tokens of filter banks, the mean of speech subtracted.
tokens mfcc mfcc-cmn 0 "${K1:-100}" 1 "$exp/train.jsonl.gz"
tokens logmel logmel-cmn 0 "${K2:-200}" 1 "$exp/train.jsonl.gz"
iterate 1 "$exp/tokens_mfcc,$exp/tokens_logmel" ""

# Iterations 2 to 4: tokens of segment means of the last layer of the model before.
for i in 2 3 4; do
    tokens "iter$i" "pooled:$exp/iter$((i - 1))/model" 5 "${K2:-200}" 0.7 "$exp/train.jsonl.gz"
    iterate "$i" "$exp/tokens_iter$i" ""
done

# Iterations 5 to 11: phones.
guided=${GUIDED:-1}
case $guided in 0) last=4 ;; synth) last=7 ;; *) last=11 ;; esac
if [ "$guided" != 0 ]; then source "$here/guided.sh"; fi

# Scores on the test utterances, beside MFCC's, for every layer.
score() { voxtok sweep --config "$here/conf/sweep.yaml" --cuts "$exp/real.jsonl.gz" --heldout-cuts "$data/$test" "$@"; }
score --upstream mfcc --layers "[0]" --out "$exp/sweep_mfcc"
score --upstream "$exp/iter$last/model" --layers "[0,1,2,3,4,5]" --out "$exp/sweep_hubert_mini"

# A tokenizer of it, like the one that is installed (--tokenizer mini).
voxtok fit --upstream "$exp/iter$last/model" --layer 5 --vocab-size "${K3:-500}" --dedup false --hours 2 \
    --cuts "$exp/$([ "$guided" != 0 ] && echo guided || echo train).jsonl.gz" --out "$exp/tokenizer_mini"
