#!/usr/bin/env bash
# Your own audio to tokens: ./run.sh AUDIO_FOLDER [OUTPUT_FOLDER]. Run it again after a stop: it goes on.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
audio=${1:?usage: run.sh AUDIO_FOLDER [OUTPUT_FOLDER]}
exp=${2:-$here/exp}

# Index every wav, flac, ogg, opus and mp3 below the folder, and say what is wrong with any of them.
voxtok corpus folder --audio "$audio" --out "$exp/corpus" ${CORPUS_OPTIONS:-}
voxtok check "$exp/corpus/cuts.jsonl.gz" || echo "going on without the bad files"

# Tokenizer, tokens, and text; OPTIONS="--upstream /models/wavlm-large --layer 21 --vocab-size 2000" takes an SSL model.
# shellcheck disable=SC2086
voxtok fit --config "$here/conf/fit.yaml" --cuts "$exp/corpus/cuts.jsonl.gz" --out "$exp/tokenizer" ${OPTIONS:-}
voxtok encode --tokenizer "$exp/tokenizer" --cuts "$exp/corpus/cuts.jsonl.gz" --out "$exp/tokens"
voxtok export --store "$exp/tokens" --to text --out "$exp/tokens.txt"
