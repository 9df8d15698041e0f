#!/usr/bin/env bash
# A recognizer to judge speech by: what is said in kathleen's recordings, in their resynthesis, and by tts.sh.
# Run it again after a stop: it goes on.
#
#   DATA=/data/speech ./asr.sh && ASR=exp/asr/recognizer/model DATA=/data/speech ./tts.sh
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
exp=${EXP:-$here/exp}/asr
data=${DATA:-${VOXTOK_DATA:?give DATA, the folder of the real speech}}
test=${TEST:-sample}
steps=${STEPS:+--train.steps $STEPS --train.warmup_steps 1 --train.evaluate_steps $STEPS}

# Data: many speakers, divided as in ../speechocean, and all but every 8th of kathleen's sentences; no test utterances.
DATA=$data TEST=$test "$here/../mini_hubert/transcribed.sh" "$exp/cuts"

# Text: characters. What is heard: features of the SSL model below the tokens, of recordings and of made speech alike.
voxtok text-model --texts "[$exp/cuts/train.jsonl.gz]" --kind characters --case lower --punctuation remove \
    --out "$exp/text.json"

# shellcheck disable=SC2086
voxtok train-asr --config "$here/conf/train-asr.yaml" --data "[$exp/cuts/train.jsonl.gz]" --dev "[$exp/cuts/dev.jsonl.gz]" \
    --text-model "$exp/text.json" --out "$exp/recognizer" $steps

# What it hears in the test utterances.
voxtok decode-asr --model "$exp/recognizer/model" --data "[$data/$test]" --search.method ctc-greedy --out "$exp/test"
