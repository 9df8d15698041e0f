#!/usr/bin/env bash
# Voice conversion on VCTK: one sentence of 13 speakers in the voices of 4 others, from training the vocoder to scores.
# Run it again after a stop: it goes on.
#
#   DATA=/data/speech ./run.sh    folders of Lhotse manifests: librispeech_mini and vctk14
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
exp=${EXP:-$here/exp}
data=${DATA:-${VOXTOK_DATA:?give DATA, the folder of the real speech}}
sentence=${SENTENCE:-_023}
targets=${TARGETS:-p225 p226 p227 p228}
others=${OTHERS:-$data/librispeech_mini}
upstream=${UPSTREAM:-mini}
layer=${LAYER:-2}
normalization=${NORMALIZATION:-checkpoint}

# Data: the sentence that all speakers read is kept out of training and out of the pools.
voxtok corpus join --cuts "[$data/vctk14]" --out "$exp/vctk.jsonl"
grep -E "^\{\"id\": \"[^\"]*$sentence\"" "$exp/vctk.jsonl" > "$exp/parallel.jsonl"
voxtok corpus join --cuts "[$others,$data/vctk14]" --without "$exp/parallel.jsonl" --out "$exp/train.jsonl.gz"

# A vocoder of the features.
voxtok train-vocoder --config "$here/conf/train-vocoder_features.yaml" --cuts "$exp/train.jsonl.gz" \
    --features.upstream "$upstream" --features.layer $layer --features.normalization $normalization \
    --out "$exp/vocoder" ${STEPS:+--train.steps $STEPS --train.warmup_steps 1 --train.adversarial_from $STEPS}

# Pools of the targets' other sentences, and the sentence in their voices.
for target in $targets; do
    voxtok pool --reference "$exp/vctk.jsonl" --speaker "$target" --without "$target$sentence" \
        --upstream "$upstream" --layer $layer --normalization $normalization --out "$exp/pools/$target"
    voxtok convert --source "$exp/parallel.jsonl" --reference "$exp/pools/$target" --vocoder "$exp/vocoder/model" \
        --name "$target" --out "$exp/converted/$target"
done

# Whose voice is it?
converted=$(printf "$exp/converted/%s," $targets)
voxtok score-conversion --converted "[${converted%,}]" --originals "$exp/vctk.jsonl" --speaker-model mini \
    --out "$exp/scores.json" | tee "$exp/scores.md"
