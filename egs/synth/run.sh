#!/usr/bin/env bash
# The demo, no downloads: a synthetic corpus -> codebook -> tokens -> quality; tokens -> text; tokens -> speech, and voices.
# Run it again after a stop: it goes on.
#
#   ./run.sh                                 the whole demo
#   SAY="What a fine day it is." ./run.sh    it says this sentence; from the root: make demo SAY="What a fine day it is."
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
exp=${EXP:-$here/exp}
say=${SAY:-Speech becomes tokens, and tokens become speech again.}

# Corpora: 20 voices to fit on, and 8 others, that say other sentences, to judge by.
voxtok corpus synth --out "$exp/train" --speakers 20 --utterances 20 --seed 0
voxtok corpus synth --out "$exp/test" --speakers 8 --utterances 15 --seed 1 --prefix test
voxtok check "$exp/test/cuts.jsonl.gz"

# Tokenizer: k-means on layer 5 of hubert-mini.
voxtok fit --config "$here/conf/fit.yaml" --cuts "$exp/train/cuts.jsonl.gz" --out "$exp/tokenizer"

# Tokens: a Lhotse Shar store, and text.
voxtok encode --tokenizer "$exp/tokenizer" --cuts "$exp/test/cuts.jsonl.gz" --out "$exp/tokens" --shard-size 50
voxtok export --store "$exp/tokens" --to text --out "$exp/tokens.txt"
head -n 1 "$exp/tokens.txt" | cut -c 1-100

# Quality of tokens: a page of measurements.
voxtok quality --config "$here/conf/quality.yaml" --store "$exp/tokens" --out "$exp/report"

# Tokens to text: the recipe of recognition in a short form.
EXP="$exp/short" SPEAKERS=20 UTTERANCES=20 STEPS=200 "$here/asr.sh"

# Tokens to speech, by the models that are installed: an utterance of each test voice.
gzip -dc "$exp/test/cuts.jsonl.gz" | awk 'NR % 15 == 1' | gzip -n > "$exp/originals.jsonl.gz"
voxtok encode --tokenizer mini --cuts "$exp/originals.jsonl.gz" --out "$exp/originals_tokens"
voxtok synthesize --store "$exp/originals_tokens" --vocoder mini --out "$exp/resynthesized"

# The same in another voice: that of a speaker of the training part.
voxtok pool --reference "$exp/train/cuts.jsonl.gz" --speaker synth-s014 --upstream mini --layer 5 \
    --normalization checkpoint --speaker-model mini --out "$exp/voice"
voxtok convert --source "$exp/originals.jsonl.gz" --reference "$exp/voice" --vocoder mini --name synth-s014 \
    --out "$exp/converted"

# Text to speech: the sentence of yours.
printf '%s\n' "$say" > "$exp/sentence.txt"
voxtok say mini --texts "$exp/sentence.txt" --out "$exp/said"

# Quality of speech: a page to listen to.
voxtok vocoder-quality --reference "$exp/originals.jsonl.gz" --synthetic "$exp/resynthesized" --aligned true \
    --tokenizer mini --shown "[$exp/converted,$exp/said]" --out "$exp/report"
