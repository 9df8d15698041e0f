#!/usr/bin/env bash
# A unit language model from speech without a word of text, and how it goes on from spoken prompts.
# Run it again after a stop: it goes on.
#
#   DATA=/data/speech ./run.sh    real speech: folders of Lhotse manifests, CORPORA to train on and TEST for prompts
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
exp=${EXP:-$here/exp}
data=${DATA:-${VOXTOK_DATA:?give DATA, the folder of the real speech}}
corpora=${CORPORA:-librispeech_mini kathleen}
test=${TEST:-sample}
tokenizer=${TOKENIZER:-mini}
vocoder=${VOCODER:-mini}
config=${CONFIG:-$here/conf/train-lm_mini.yaml}
prompt=${PROMPT:-$(find "$data/$test/" -name "*.wav" -o -name "*.flac" | sort | sed -n 1p)}
: "${prompt:?there is no .wav or .flac in $data/$test: give PROMPT, a recording to go on from}"

# Tokens of the training speech, without the test utterances, and of the test speech.
cuts=$(printf ",$data/%s" $corpora)
voxtok corpus join --cuts "[${cuts:1}]" --without "$data/$test" --without-others --out "$exp/train.jsonl.gz"
voxtok encode --tokenizer "$tokenizer" --cuts "$exp/train.jsonl.gz" --out "$exp/tokens"
voxtok encode --tokenizer "$tokenizer" --cuts "$data/$test" --out "$exp/test_tokens"

# exp/lm/metrics.jsonl has the perplexity and the bits a second of training and of test speech.
voxtok train-lm --config "$config" --stores "[$exp/tokens]" --valid "[$exp/test_tokens]" --out "$exp/lm" ${OPTIONS:-}
tail -n 1 "$exp/lm/metrics.jsonl"

# Three continuations of the first seconds of a recording, PROMPT.
voxtok continue "$exp/lm" "$prompt" --vocoder "$vocoder" --prompt-s 3 --samples 3 --out "$exp/continued.wav" \
    --sampling.temperature 0.8 --sampling.top_k 50 --stop.max_s 6 ${CONTINUE:-}
