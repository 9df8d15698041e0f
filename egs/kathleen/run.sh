#!/usr/bin/env bash
# vocoder-mini: the vocoder that is installed with voxtok, from speech to checkpoint and scores, on one CPU core.
# Run it again after a stop: it goes on.
#
#   DATA=/data/speech ./run.sh    real speech: folders of Lhotse manifests, CORPORA to train on and TEST to score on
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
exp=${EXP:-$here/exp}
data=${DATA:-${VOXTOK_DATA:?give DATA, the folder of the real speech}}
corpora=${CORPORA:-librispeech_mini kathleen}
test=${TEST:-sample}
tokenizer=${TOKENIZER:-$here/../../models/mini-500}
steps=${STEPS:+--train.steps $STEPS --train.adversarial_from $STEPS --train.warmup_steps 1 --train.heldout 1}

# Training speech: real, without the test utterances, which come from other corpora too, and synthetic voices.
voxtok corpus synth --out "$exp/synth" --speakers "${SPEAKERS:-60}" --utterances 12 --seed 91 --prefix voc
cuts=$(printf ",$data/%s" $corpora),$exp/synth/cuts.jsonl.gz
voxtok corpus join --cuts "[${cuts:1}]" --without "$data/$test" --without-others --out "$exp/train.jsonl.gz"

# Features of the tokenizer's SSL model, pitch and speakers are computed once; then the vocoder learns spectra.
voxtok train-vocoder --config "$here/conf/train-vocoder_mini.yaml" --cuts "$exp/train.jsonl.gz" \
    --tokenizer "$tokenizer" --out "$exp/vocoder_1" $steps

# It goes on, and against discriminators.
voxtok train-vocoder --config "$here/conf/train-vocoder_mini_2.yaml" --frames "$exp/vocoder_1/frames" \
    --tokenizer "$tokenizer" --init "$exp/vocoder_1/model" --out "$exp/vocoder" $steps

# The test utterances through tokens and back, each in its own speaker's voice.
voxtok encode --tokenizer "$tokenizer" --cuts "$data/$test" --out "$exp/test_tokens"
voxtok synthesize --store "$exp/test_tokens" --vocoder "$exp/vocoder/model" --out "$exp/test_speech"
voxtok vocoder-quality --reference "$data/$test" --synthetic "$exp/test_speech" --aligned true \
    --tokenizer "$tokenizer" --out "$exp/quality"
