#!/usr/bin/env bash
# Text to speech in one voice, on one CPU core: 37 minutes of CC0 recordings -> a model that says other sentences.
# Run it again after a stop: it goes on.
#
#   DATA=/data/speech ./tts.sh                the folder of the real speech, with kathleen in it
#   VOCODER=exp/vocoder/model ./tts.sh        another vocoder than the one that is installed
#   ASR=exp/asr/model ./tts.sh                a recognizer: error rates too
#   VOICE=other.wav ./tts.sh                  the test sentences in another voice, too
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
exp=${EXP:-$here/exp}/tts
data=${DATA:-${VOXTOK_DATA:?give DATA, the folder of the real speech}}
tokenizer=${TOKENIZER:-mini}
vocoder=${VOCODER:-mini}

# Data: every 8th sentence is kept for tests.
voxtok corpus join --cuts "[$data/${CORPUS:-kathleen}]" --out "$exp/all.jsonl.gz"
gzip -dc "$exp/all.jsonl.gz" | awk 'NR % 8 == 4' | gzip -n > "$exp/test.jsonl.gz"
voxtok corpus join --cuts "[$exp/all.jsonl.gz]" --without "$exp/test.jsonl.gz" --out "$exp/train.jsonl.gz"

# Tokens of both parts.
for part in train test; do
    voxtok encode --tokenizer "$tokenizer" --cuts "$exp/$part.jsonl.gz" --out "$exp/tokens_$part"
done

# Text to tokens.
# shellcheck disable=SC2086
voxtok train-tts --config "$here/conf/train-tts.yaml" --data.store "$exp/tokens_train" \
    --data.valid "$exp/tokens_test" --out "$exp/model" ${TTS_OPTIONS:-}

# The test sentences: said from their texts, and made from the recordings' own tokens.
voxtok say "$exp/model" --texts "$exp/test.jsonl.gz" --text-field "${TEXT_FIELD:-raw_text}" --vocoder "$vocoder" \
    --out "$exp/said"
voxtok synthesize --store "$exp/tokens_test" --vocoder "$vocoder" --out "$exp/resynthesized"
voxtok tts-quality --said "$exp/said" --reference "$exp/test.jsonl.gz" --out "$exp/quality.json"

# In a voice that no model has heard: nearer to it than to the training's?
if [ -n "${VOICE:-}" ]; then
    voxtok say "$exp/model" --texts "$exp/test.jsonl.gz" --text-field "${TEXT_FIELD:-raw_text}" --vocoder "$vocoder" \
        --voice "$VOICE" --out "$exp/said_voice"
    voxtok tts-quality --said "$exp/said_voice" --voices "[$VOICE,$exp/train.jsonl.gz]" --out "$exp/quality_voice.json"
fi

# What a recognizer hears in the recordings, in their tokens and in what was said; one of tokens has their tokenizer.
hear() {
    local data=$2
    if [ -d "$ASR/tokenizers/0" ]; then
        data=$exp/heard/$1/tokens
        voxtok encode --tokenizer "$ASR/tokenizers/0" --cuts "$2" --out "$data"
    fi
    voxtok decode-asr --model "$ASR" --data "[$data]" --search.method ctc-greedy --out "$exp/heard/$1/text"
}
if [ -n "${ASR:-}" ]; then
    hear recorded "$exp/test.jsonl.gz"
    hear resynthesized "$exp/resynthesized/cuts.jsonl.gz"
    hear said "$exp/said/cuts.jsonl.gz"
    if [ -n "${VOICE:-}" ]; then hear said_voice "$exp/said_voice/cuts.jsonl.gz"; fi
fi
