#!/usr/bin/env bash
# Tokens against log-mel on two hours of real speech, non-native and read, and as much synthetic speech beside it:
# the same network, the same updates.
# Run it again after a stop: it goes on.
#
#   DATA=/data/speech ./run.sh                   folders of Lhotse manifests, CORPORA of them
#   TOKENIZER=exp/tokenizer ./run.sh             another tokenizer than the one that is installed with voxtok
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
exp=${EXP:-$here/exp}
data=${DATA:-${VOXTOK_DATA:?give DATA, the folder of the real speech}}
corpora=${CORPORA:-speechocean_adult_train librispeech_mini}
steps=${STEPS:+--train.steps $STEPS --train.warmup_steps $((STEPS / 8 + 1)) --train.evaluate_steps $STEPS}

# Data: one corpus, in parts that share no speaker.
cuts=$(printf "$data/%s," $corpora)
voxtok corpus join --cuts "[${cuts%,}]" --out "$exp/all.jsonl.gz"
voxtok corpus split --cuts "$exp/all.jsonl.gz" --parts train,dev=0.08,test=0.12 --seed 0 --out "$exp/cuts"

# Synthetic speech, from which both learn sooner where a text is in the audio: two hours are few to find it out.
voxtok corpus synth --out "$exp/synth" --seed 0 --speakers "${SPEAKERS:-60}" --utterances "${UTTERANCES:-30}"
voxtok corpus join --cuts "[$exp/synth/cuts.jsonl.gz]" --out "$exp/cuts/cuts_synth.jsonl.gz"

# Text: characters.
voxtok text-model --texts "[$exp/cuts/cuts_train.jsonl.gz,$exp/cuts/cuts_synth.jsonl.gz]" --kind characters \
    --case lower --punctuation remove --out "$exp/text.json"

# Tokens.
for part in train synth dev test; do
    voxtok encode --tokenizer "${TOKENIZER:-mini}" --cuts "$exp/cuts/cuts_$part.jsonl.gz" --out "$exp/tokens/$part"
done

# Two recognizers, and their errors.
for input in tokens logmel; do
    prefix=$([ $input = tokens ] && echo "$exp/tokens/" || echo "$exp/cuts/cuts_")
    suffix=$([ $input = tokens ] || echo .jsonl.gz)
    # shellcheck disable=SC2086
    voxtok train-asr --config "$here/conf/train-asr_$input.yaml" --text-model "$exp/text.json" \
        --data "[${prefix}train$suffix,${prefix}synth$suffix]" --dev "[${prefix}dev$suffix]" --out "$exp/asr_$input" $steps
    voxtok decode-asr --model "$exp/asr_$input" --data "[${prefix}test$suffix]" --search.method ctc-beam \
        --out "$exp/test_$input"
done

# Which is better, on speakers drawn anew.
voxtok score --ref "$exp/cuts/cuts_test.jsonl.gz" --hyp "$exp/test_tokens/hypotheses.jsonl" \
    --versus "$exp/test_logmel/hypotheses.jsonl" --scoring.resample speaker --case lower --punctuation remove \
    --out "$exp/tokens_versus_logmel"

# What the inputs of an hour take: token arrays compressed as they are kept, features as they are trained on.
du -sb "$exp"/tokens/train/shar/tokens.*.tar "$exp"/asr_logmel/cache/data/features_0/features.f16
