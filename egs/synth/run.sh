#!/usr/bin/env bash
# The demo: a synthetic corpus -> codebook -> tokens -> quality page; no downloads. Run it again: finished steps are kept.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
exp=${EXP:-$here/exp}

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

# Quality: a page of measurements.
voxtok quality --config "$here/conf/quality.yaml" --store "$exp/tokens" --out "$exp/report"
