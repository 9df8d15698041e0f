#!/usr/bin/env bash
# LibriSpeech to tokens: data, codebook, token stores, exports, quality. Run it again after a stop: it goes on.
#
#   ./run.sh                                                 WavLM Large layer 21, K = 2000, one process
#   CONF=hubert_base_l9_km500 NPROC=8 ./run.sh               another tokenizer, 8 GPUs
#   CORPUS=/data/LibriSpeech ./run.sh                        a copy that is already on disk
#   OPTIONS="--upstream /models/wavlm-large" ./run.sh        weights that are already on disk
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
exp=${EXP:-$here/exp}
conf=${CONF:-wavlm_large_l21_km2000}
corpus=${CORPUS:-$exp/download}
train=${TRAIN:-train-clean-100}
parts=${PARTS:-$train dev-clean dev-other test-clean test-other}

if [ "${NPROC:-1}" -gt 1 ]; then
    run="torchrun --standalone --nproc-per-node $NPROC -m voxtok.runtime.commands"
else
    run="voxtok"
fi

# Data: Lhotse prepares the manifests, and downloads the parts where no copy is given.
download=$([ -n "${CORPUS:-}" ] || echo --download)
# shellcheck disable=SC2086
voxtok corpus librispeech --corpus-dir "$corpus" --out "$exp/data" $download dataset_parts="${parts// /,}"

# Tokenizer.
# shellcheck disable=SC2086
$run fit --config "$here/conf/$conf.yaml" --cuts "$exp/data/cuts_$train.jsonl.gz" --out "$exp/$conf" ${OPTIONS:-}

# Tokens of every part: a Lhotse Shar store, and ESPnet/Kaldi text.
for part in $parts; do
    $run encode --tokenizer "$exp/$conf" --cuts "$exp/data/cuts_$part.jsonl.gz" --out "$exp/tokens/$conf/$part"
    voxtok export --store "$exp/tokens/$conf/$part" --to kaldi --out "$exp/kaldi/$conf/$part"
done
