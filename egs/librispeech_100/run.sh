#!/usr/bin/env bash
# LibriSpeech to text by tokens, from train-clean-100. Run it again after a stop: it goes on.
#
#   ./run.sh                                                 tokens of WavLM Large, one process
#   INPUT=logmel NPROC=4 ./run.sh                            the baseline without tokens, 4 GPUs
#   CORPUS=/data/LibriSpeech ./run.sh                        a copy that is already on disk
#   OPTIONS="--upstream /models/wavlm-large" ./run.sh        weights that are already on disk
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
exp=${EXP:-$here/exp}
conf=${CONF:-$here/conf}
input=${INPUT:-tokens}
corpus=${CORPUS:-$exp/download}
train=${TRAIN:-train-clean-100}
dev=${DEV:-dev-clean dev-other}
test=${TEST:-test-clean test-other}

if [ "${NPROC:-1}" -gt 1 ]; then
    run="torchrun --standalone --nproc-per-node $NPROC -m voxtok.runtime.commands"
else
    run="voxtok"
fi

# list PREFIX SUFFIX NAME...: [PREFIX NAME SUFFIX,...], as options take it.
list() { local prefix=$1 suffix=$2; shift 2; printf '['; printf "$prefix%s$suffix," "$@" | sed 's/,$//'; printf ']'; }

# Data: manifests by Lhotse, and the training parts at three speeds.
download=$([ -n "${CORPUS:-}" ] || echo --download)
every=$(echo $train $dev $test | tr ' ' ',')
# shellcheck disable=SC2086
voxtok corpus librispeech --corpus-dir "$corpus" --out "$exp/data" $download dataset_parts="$every"
for part in $train; do
    voxtok corpus speed --cuts "$exp/data/cuts_$part.jsonl.gz" --factors "${SPEEDS:-[0.9,1,1.1]}" \
        --out "$exp/data/cuts_${part}_speeds.jsonl.gz"
done

# Text: subword units of the training transcripts.
# shellcheck disable=SC2086
voxtok text-model --texts "$(list "$exp/data/cuts_" .jsonl.gz $train)" --kind "${TEXT_KIND:-unigram}" \
    --vocab-size "${TEXT_PIECES:-5000}" --case lower --punctuation remove --out "$exp/text.json"

if [ "$input" = tokens ]; then
    # Tokenizer of the first training part, and merged tokens of every part.
    # shellcheck disable=SC2086
    $run fit --config "${FIT:-$conf/fit.yaml}" --cuts "$exp/data/cuts_${train%% *}.jsonl.gz" --out "$exp/tokenizer" \
        ${OPTIONS:-}
    for part in $(printf '%s_speeds ' $train) $dev $test; do
        $run encode --tokenizer "$exp/tokenizer" --cuts "$exp/data/cuts_$part.jsonl.gz" --out "$exp/tokens/$part"
    done
    # Subword units of tokens.
    # shellcheck disable=SC2086
    voxtok bpe train --stores "$(list "$exp/tokens/" _speeds $train)" --kind unigram --vocab-size "${PIECES:-6000}" \
        --out "$exp/tokenizer_bpe"
    for part in $(printf '%s_speeds ' $train) $dev $test; do
        voxtok bpe encode --store "$exp/tokens/$part" --tokenizer "$exp/tokenizer_bpe" --out "$exp/pieces/$part"
    done
    prefix=$exp/pieces/ suffix=
else
    prefix=$exp/data/cuts_ suffix=.jsonl.gz
fi

# The recognizer.
# shellcheck disable=SC2086
$run train-asr --config "$conf/train-asr_$input.yaml" --data "$(list "$prefix" "_speeds$suffix" $train)" \
    --dev "$(list "$prefix" "$suffix" $dev)" --text-model "$exp/text.json" --out "$exp/asr_$input" ${ASR_OPTIONS:-}

# Joint CTC/attention decoding of the test parts.
for part in $test; do
    $run decode-asr --model "$exp/asr_$input" --data "[$prefix$part$suffix]" --search.method attention \
        --search.beam "${BEAM:-10}" --out "$exp/decode_$input/$part"
done
