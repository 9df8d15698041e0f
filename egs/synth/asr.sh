#!/usr/bin/env bash
# Tokens to text on synthetic speech: voices and sentences of the test part are never heard in training.
# Run it again after a stop: it goes on.
#
#   ./asr.sh                                                       the whole recipe
#   EXP=exp/short SPEAKERS=20 UTTERANCES=20 STEPS=200 ./asr.sh     a short form, as in the demo
#   TOKENIZER=exp/tokenizer ./asr.sh                               another tokenizer than the one that is installed
#   NPROC=2 ./asr.sh                                               training by two processes
#   ABLATION=1 ./asr.sh                                            also without each part of the augmentation
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
exp=${EXP:-$here/exp}/asr
speakers=${SPEAKERS:-60}
utterances=${UTTERANCES:-30}
steps=${STEPS:+--train.steps $STEPS --train.warmup_steps $((STEPS / 8 + 1)) --train.evaluate_steps $STEPS}

# Corpora: parts of one seed share no voice and no sentence.
part() { voxtok corpus synth --out "$exp/$1" --seed 0 --utterances "$utterances" --first-speaker "$2" --speakers "$3"; }
tenth=$(((speakers + 9) / 10))
part train 0 "$speakers"
part test "$speakers" "$tenth"
part dev $((speakers + tenth)) "$tenth"

# Tokens.
for name in train dev test; do
    voxtok encode --tokenizer "${TOKENIZER:-mini}" --cuts "$exp/$name/cuts.jsonl.gz" --out "$exp/tokens/$name"
done

# Text: characters, and the words of the training sentences, two by two.
voxtok text-model --texts "[$exp/train/cuts.jsonl.gz]" --kind characters --case lower --punctuation remove \
    --out "$exp/text.json"
voxtok ngram --texts "[$exp/train/cuts.jsonl.gz]" --text-model "$exp/text.json" --units words --order 2 \
    --out "$exp/words.arpa"
voxtok graph --text-model "$exp/text.json" --arpa "$exp/words.arpa" --out "$exp/graph"

# The recognizer.
if [ "${NPROC:-1}" -gt 1 ]; then
    run="torchrun --standalone --nproc-per-node $NPROC -m voxtok.runtime.commands"
else
    run="voxtok"
fi
# train NAME OPTION...: one recognizer, and its errors on the test part by CTC alone and by the graph of known words.
train() {
    local name=$1
    shift
    # shellcheck disable=SC2086
    $run train-asr --config "$here/conf/train-asr_tokens.yaml" --data "[$exp/tokens/train]" --dev "[$exp/tokens/dev]" \
        --text-model "$exp/text.json" --out "$exp/$name" $steps "$@"
    voxtok decode-asr --model "$exp/$name" --data "[$exp/tokens/test]" --search.method ctc-greedy \
        --out "$exp/$name/test_greedy"
    voxtok decode-asr --model "$exp/$name" --data "[$exp/tokens/test]" --search.method graph \
        --search.graph "$exp/graph" --search.lm-weight "${LM_WEIGHT:-0.9}" --out "$exp/$name/test_graph"
}

train recognizer
if [ -n "${ABLATION:-}" ]; then
    train no_replacement --augment.replace 0
    train no_frame_masks --augment.frame_masks 0
    train no_dimension_masks --augment.dim_masks 0
    train no_augmentation --augment.replace 0 --augment.probability 0
fi
