#!/usr/bin/env bash
# The whole way on a corpus that is made here: train, evaluate on held-out lines, translate.
# Safe to run again: a run that was stopped goes on, a finished one is only used.
set -euo pipefail
cd "$(dirname "$0")/.."
EXTRAS=demo source scripts/setup_venv.sh
nmt=.venv/bin/nmt

echo "== making the corpus"
.venv/bin/python scripts/make_demo_corpus.py --output data/demo

echo "== training (up to four minutes on two cores)"
"$nmt" train configs/demo.yaml

echo "== translating the held-out lines"
"$nmt" evaluate --model runs/demo --exact-match --bleu --chrf

echo "== translating two lines"
lines="the train leaves at half past seven
I think the library has forty-two books."
echo "$lines"
echo "$lines" | "$nmt" translate --model runs/demo
