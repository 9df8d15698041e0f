#!/usr/bin/env bash
# hubert-mini: the small SSL model that is installed with voxtok, from speech to checkpoint and scores, on one CPU core.
# Run it again after a stop: it goes on.
#
#   DATA=/data/speech ./run.sh    real speech: folders of Lhotse manifests, CORPORA to train on and TEST to score on
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
voxtok corpus join --cuts "[$cuts$exp/synth/cuts.jsonl.gz]" --without "$data/$test" --out "$exp/train.jsonl.gz"

# The convolutions learn to be a filter bank.
voxtok distill --config "$here/conf/distill_front.yaml" --cuts "$exp/train.jsonl.gz" --out "$exp/front" $steps

# tokens NAME UPSTREAM LAYER K HOURS: a codebook, and the tokens of all training speech.
tokens() {
    voxtok fit --upstream "$2" --layer "$3" --vocab-size "$4" --dedup false --hours "$5" \
        --cuts "$exp/train.jsonl.gz" --out "$exp/tokenizer_$1"
    voxtok encode --tokenizer "$exp/tokenizer_$1" --cuts "$exp/train.jsonl.gz" --out "$exp/tokens_$1"
}

# Iteration 1: tokens of filter banks, the mean of speech subtracted.
tokens mfcc mfcc-cmn 0 "${K1:-100}" 1
tokens logmel logmel-cmn 0 "${K2:-200}" 1
voxtok pretrain --config "$here/conf/pretrain_iter1.yaml" --init "$exp/front/model" --out "$exp/iter1" \
    --stores "[$exp/tokens_mfcc,$exp/tokens_logmel]" $steps

# Iterations 2 to 4: tokens of segment means of the last layer of the model before.
for i in 2 3 4; do
    tokens "iter$i" "pooled:$exp/iter$((i - 1))/model" 5 "${K2:-200}" 0.7
    voxtok pretrain --config "$here/conf/pretrain_iter$i.yaml" --init "$exp/iter$((i - 1))/model" --out "$exp/iter$i" \
        --stores "[$exp/tokens_iter$i]" $steps
done

# Scores on the test utterances, beside MFCC's, for every layer.
for upstream in mfcc "$exp/iter4/model"; do
    layers=$([ "$upstream" = mfcc ] && echo "[0]" || echo "[0,1,2,3,4,5]")
    name=$([ "$upstream" = mfcc ] && echo mfcc || echo hubert_mini)
    voxtok sweep --config "$here/conf/sweep.yaml" --upstream "$upstream" --layers "$layers" \
        --cuts "$exp/train.jsonl.gz" --heldout-cuts "$data/$test" --out "$exp/sweep_$name"
done
