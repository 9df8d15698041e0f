#!/usr/bin/env bash
# LJSpeech: text to speech by tokens of one speaker. Run it again after a stop: it goes on.
#
#   ./run.sh                                               downloads LJSpeech and HuBERT base
#   CORPUS=/data/LJSpeech-1.1 ./run.sh                     a copy that is already on disk
#   OPTIONS="--upstream /models/hubert-base" ./run.sh      weights that are already on disk
#   NPROC=4 ./run.sh                                       4 GPUs
#   ASR=exp/asr/model ./run.sh                             a recognizer: error rates too
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
exp=${EXP:-$here/exp}
corpus=${CORPUS:-$exp/download/LJSpeech-1.1}

if [ "${NPROC:-1}" -gt 1 ]; then
    run="torchrun --standalone --nproc-per-node $NPROC -m voxtok.runtime.commands"
else
    run="voxtok"
fi

# Data: manifests by Lhotse; every 100th sentence is for tests, the one after it for measurements while training.
download=$([ -n "${CORPUS:-}" ] || echo --download)
# shellcheck disable=SC2086
voxtok corpus ljspeech --corpus-dir "$corpus" --out "$exp/data" $download
gzip -dc "$exp/data/cuts.jsonl.gz" | awk -v n="${EVERY:-100}" 'NR % n == 0' | gzip -n > "$exp/data/cuts_test.jsonl.gz"
gzip -dc "$exp/data/cuts.jsonl.gz" | awk -v n="${EVERY:-100}" 'NR % n == 1' | gzip -n > "$exp/data/cuts_valid.jsonl.gz"
voxtok corpus join --cuts "[$exp/data/cuts_test.jsonl.gz,$exp/data/cuts_valid.jsonl.gz]" \
    --out "$exp/data/cuts_heldout.jsonl.gz"
voxtok corpus join --cuts "[$exp/data/cuts.jsonl.gz]" --without "$exp/data/cuts_heldout.jsonl.gz" \
    --out "$exp/data/cuts_train.jsonl.gz"

# Tokens.
# shellcheck disable=SC2086
$run fit --config "$here/conf/fit.yaml" --cuts "$exp/data/cuts_train.jsonl.gz" --out "$exp/tokenizer" ${OPTIONS:-}
for part in train valid test; do
    $run encode --tokenizer "$exp/tokenizer" --cuts "$exp/data/cuts_$part.jsonl.gz" --out "$exp/tokens/$part"
done

# Tokens to speech, and text to tokens.
# shellcheck disable=SC2086
$run train-vocoder --config "$here/conf/train-vocoder.yaml" --store "$exp/tokens/train" --out "$exp/vocoder" \
    ${VOCODER_OPTIONS:-}
# shellcheck disable=SC2086
$run train-tts --config "$here/conf/train-tts.yaml" --data.store "$exp/tokens/train" --data.valid "$exp/tokens/valid" \
    --out "$exp/tts" ${TTS_OPTIONS:-}

# The test sentences: said from their texts, and made from the recordings' own tokens.
voxtok say "$exp/tts" --texts "$exp/data/cuts_test.jsonl.gz" --text-field normalized_text \
    --vocoder "$exp/vocoder/model" --out "$exp/said"
voxtok synthesize --store "$exp/tokens/test" --vocoder "$exp/vocoder/model" --out "$exp/resynthesized"

# Scores.
voxtok tts-quality --said "$exp/said" --reference "$exp/data/cuts_test.jsonl.gz" --out "$exp/quality.json"

# What a recognizer, by the tokenizer in its folder, hears in the recordings, in their tokens and in what was said;
# scored by the texts that were said, whose numbers are words.
hear() {
    voxtok encode --tokenizer "$ASR/tokenizers/0" --cuts "$2" --out "$exp/heard/$1/tokens"
    voxtok decode-asr --model "$ASR" --data "[$exp/heard/$1/tokens]" --search.method ctc-greedy \
        --out "$exp/heard/$1/text"
    voxtok score --ref "$exp/said/cuts.jsonl.gz" --hyp "$exp/heard/$1/text/hypotheses.jsonl" \
        --case lower --punctuation remove --out "$exp/heard/$1/score"
}
if [ -n "${ASR:-}" ]; then
    hear recorded "$exp/data/cuts_test.jsonl.gz"
    hear resynthesized "$exp/resynthesized/cuts.jsonl.gz"
    hear said "$exp/said/cuts.jsonl.gz"
fi
