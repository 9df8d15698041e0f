#!/usr/bin/env bash
# Iterations 5 to 11 of run.sh, which reads this file: phones of synthetic speech guide, and from iteration 8 on those of
# transcribed speech.
set -euo pipefail
: "${exp:?is a part of run.sh}"

# 400 more synthetic voices, and their phones.
for i in 1 2; do
    voxtok corpus synth --out "$exp/synth$i" --speakers "${GUIDES:-200}" --utterances 12 --seed "7$i" --prefix "synth$i"
done
voxtok corpus join --cuts "[$exp/synth1/cuts.jsonl.gz,$exp/synth2/cuts.jsonl.gz]" --out "$exp/guide.jsonl.gz"
voxtok corpus join --cuts "[$exp/real.jsonl.gz,$exp/guide.jsonl.gz]" --out "$exp/guided.jsonl.gz"
voxtok label --of phones --cuts "$exp/guide.jsonl.gz" --out "$exp/phones"
voxtok label --of pauses --cuts "$exp/guided.jsonl.gz" --out "$exp/pauses"

# Iterations 5 and 6: phones of the synthetic speech, beside tokens of all speech.
tokens iter5 "pooled:$exp/iter4/model" 5 "${K2:-200}" 0.7 "$exp/guided.jsonl.gz"
for i in 5 6; do iterate "$i" "$exp/tokens_iter5" "$exp/phones"; done

# Iteration 7: clusters of the phones that the model before predicts for the real speech, and pauses of all speech.
tokens iter7 "predicted:1:$exp/iter6" 0 "${K1:-100}" 0.5 "$exp/real.jsonl.gz"
iterate 7 "$exp/pauses" "$exp/phones,$exp/tokens_iter7"
if [ "$guided" = synth ]; then return; fi

# Iteration 8: phones of real speech too, placed by an aligner that knew its words; none of what recipes test on.
known=$exp/transcribed/train.jsonl.gz
DATA=$data TEST=$test "$here/transcribed.sh" "$exp/transcribed"
voxtok label --of phones --cuts "$known" --out "$exp/phones_real"
iterate 8 "$exp/pauses" "$exp/phones,$exp/phones_real"

# Iteration 9: five times as long, and with a fifth of the synthetic speech.
gzip -dc "$exp/guide.jsonl.gz" | awk 'NR % 5 == 1' | gzip -n > "$exp/fifth.jsonl.gz"
voxtok corpus join --cuts "[$exp/real.jsonl.gz,$exp/fifth.jsonl.gz]" --out "$exp/mixed.jsonl.gz"
voxtok label --of pauses --cuts "$exp/mixed.jsonl.gz" --out "$exp/pauses_mixed"
iterate 9 "$exp/pauses_mixed" "$exp/phones,$exp/phones_real"

# Iteration 10: thirds of phones.
voxtok label --of phones --parts 3 --cuts "$exp/fifth.jsonl.gz" --out "$exp/thirds"
voxtok label --of phones --parts 3 --cuts "$known" --out "$exp/thirds_real"
iterate 10 "$exp/pauses_mixed" "$exp/thirds,$exp/thirds_real"

# Iteration 11: the corpus with the most speakers four times, and frames of all voices in one place.
gzip -dc "$known" | grep "/${VOICES:-librispeech_mini}/" | gzip -n > "$exp/voices.jsonl.gz"
voxtok corpus join --cuts "[$exp/voices.jsonl.gz]" --repeat 3 --out "$exp/more.jsonl.gz"
voxtok corpus join --cuts "[$exp/mixed.jsonl.gz,$exp/more.jsonl.gz]" --out "$exp/mixed_more.jsonl.gz"
voxtok corpus join --cuts "[$known,$exp/more.jsonl.gz]" --out "$exp/known_more.jsonl.gz"
voxtok label --of pauses --cuts "$exp/mixed_more.jsonl.gz" --out "$exp/pauses_more"
voxtok label --of phones --parts 3 --cuts "$exp/known_more.jsonl.gz" --out "$exp/thirds_more"
iterate 11 "$exp/pauses_more" "$exp/thirds,$exp/thirds_more"
