#!/usr/bin/env bash
# Tokens to text on synthetic speech: voices and sentences of the test part are never heard in training.
# Run it again after a stop: it goes on.
#
#   ./asr.sh                                           the whole recipe
#   EXP=exp/short SPEAKERS=8 STEPS=60 ./asr.sh         a short form, as in the demo
#   TOKENIZER=exp/tokenizer ./asr.sh                   another tokenizer than the one that is installed with voxtok
#   NPROC=2 ./asr.sh                                   training by two processes
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
exp=${EXP:-$here/exp}/asr
speakers=${SPEAKERS:-60}
utterances=${UTTERANCES:-30}
steps=${STEPS:+--train.steps $STEPS --train.warmup_steps $((STEPS / 8 + 1)) --train.evaluate_steps $STEPS}

# Corpora: parts of one seed share no voice and no sentence.
part() { voxtok corpus synth --out "$exp/$1" --seed 0 --utterances "$utterances" --first-speaker "$2" --speakers "$3"; }
part train 0 "$speakers"
part dev "$speakers" $((speakers / 20 + 1))
part test $((speakers + speakers / 20 + 1)) $((speakers / 8 + 1))

# Tokens.
for name in train dev test; do
    voxtok encode --tokenizer "${TOKENIZER:-mini}" --cuts "$exp/$name/cuts.jsonl.gz" --out "$exp/tokens/$name"
done

# Text: subword units and a language model of the training sentences.
voxtok text-model --texts "[$exp/train/cuts.jsonl.gz]" --kind unigram --vocab-size "${PIECES:-300}" --case lower \
    --punctuation remove --out "$exp/text.json"
voxtok ngram --texts "[$exp/train/cuts.jsonl.gz]" --text-model "$exp/text.json" --units pieces --order 4 \
    --out "$exp/pieces.arpa"

# The recognizer.
if [ "${NPROC:-1}" -gt 1 ]; then
    run="torchrun --standalone --nproc-per-node $NPROC -m voxtok.runtime.commands"
else
    run="voxtok"
fi
# shellcheck disable=SC2086
$run train-asr --config "$here/conf/train-asr_tokens.yaml" --data "[$exp/tokens/train]" --dev "[$exp/tokens/dev]" \
    --text-model "$exp/text.json" --out "$exp/recognizer" $steps

# Test: with CTC alone, and with the language model.
voxtok decode-asr --model "$exp/recognizer" --data "[$exp/tokens/test]" --search.method ctc-greedy \
    --out "$exp/test_greedy"
voxtok decode-asr --model "$exp/recognizer" --data "[$exp/tokens/test]" --search.method ctc-beam \
    --search.lm "$exp/pieces.arpa" --search.lm-weight 0.3 --out "$exp/test_lm"

# From audio to words with times, in one call.
voxtok transcribe "$exp/recognizer" "$(find "$exp/test" -name '*.flac' | sort | head -n 1)" --out "$exp/transcript.jsonl"
cut -c 1-300 "$exp/transcript.jsonl"
