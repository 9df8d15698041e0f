#!/usr/bin/env bash
# A recognizer to judge speech by: what is said in kathleen's recordings, in their tokens, and in what tts.sh says.
# Run it again after a stop: it goes on.
#
#   DATA=/data/speech ./asr.sh && ASR=exp/asr/recognizer DATA=/data/speech ./tts.sh
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
exp=${EXP:-$here/exp}/asr
data=${DATA:-${VOXTOK_DATA:?give DATA, the folder of the real speech}}
test=${TEST:-sample}
tokenizer=${TOKENIZER:-mini}
steps=${STEPS:+--train.steps $STEPS --train.warmup_steps 1 --train.evaluate_steps $STEPS}

# Data: many speakers, divided as in ../speechocean, and all but every 8th of kathleen's sentences; no test utterances.
DATA=$data TEST=$test "$here/../mini_hubert/transcribed.sh" "$exp/cuts"

# Text: characters. Tokens.
voxtok text-model --texts "[$exp/cuts/train.jsonl.gz]" --kind characters --case lower --punctuation remove \
    --out "$exp/text.json"
for part in train dev; do
    voxtok encode --tokenizer "$tokenizer" --cuts "$exp/cuts/$part.jsonl.gz" --out "$exp/tokens/$part"
done

# shellcheck disable=SC2086
voxtok train-asr --config "$here/conf/train-asr.yaml" --data "[$exp/tokens/train]" --dev "[$exp/tokens/dev]" \
    --text-model "$exp/text.json" --out "$exp/recognizer" $steps

# What it hears in the test utterances.
voxtok encode --tokenizer "$tokenizer" --cuts "$data/$test" --out "$exp/tokens/test"
voxtok decode-asr --model "$exp/recognizer" --data "[$exp/tokens/test]" --search.method ctc-greedy --out "$exp/test"
