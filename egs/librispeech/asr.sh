#!/usr/bin/env bash
# All 960 h of LibriSpeech to text, by tokens: the recipe of librispeech_100 with more data and a larger network.
#
#   NPROC=8 ./asr.sh       8 GPUs; CORPUS, OPTIONS and ASR_OPTIONS as in ../librispeech_100/run.sh
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
export EXP=${EXP:-$here/exp/asr} CONF=${CONF:-$here/conf}
export TRAIN=${TRAIN:-train-clean-100 train-clean-360 train-other-500}
export FIT=${FIT:-$here/../librispeech_100/conf/fit.yaml}
exec "$here/../librispeech_100/run.sh"
