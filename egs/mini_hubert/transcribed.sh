#!/usr/bin/env bash
# Real speech from whose words models may learn: without TEST and what the recipes keep for tests, the speakers of the dev
# and test parts of ../speechocean and every 8th sentence of ../kathleen.
#
#   DATA=/data/speech ./transcribed.sh OUT    writes OUT/train.jsonl.gz, and OUT/dev.jsonl.gz of the dev speakers
set -euo pipefail
out=${1:?give the folder to write}
data=${DATA:-${VOXTOK_DATA:?give DATA, the folder of the real speech}}

split=$(printf ",$data/%s" ${SPLIT:-speechocean_adult_train librispeech_mini})
voxtok corpus join --cuts "[${split:1}]" --out "$out/all.jsonl.gz"
voxtok corpus split --cuts "$out/all.jsonl.gz" --parts train,dev=0.08,test=0.12 --seed 0 --out "$out/split"

voxtok corpus join --cuts "[$data/${READ:-kathleen}]" --out "$out/read_all.jsonl.gz"
gzip -dc "$out/read_all.jsonl.gz" | awk 'NR % 8 != 4' | gzip -n > "$out/read.jsonl.gz"

voxtok corpus join --cuts "[$out/split/cuts_train.jsonl.gz,$out/read.jsonl.gz]" --without "$data/${TEST:-sample}" \
    --without-others --out "$out/train.jsonl.gz"
voxtok corpus join --cuts "[$out/split/cuts_dev.jsonl.gz]" --without "$data/${TEST:-sample}" --without-others \
    --out "$out/dev.jsonl.gz"
