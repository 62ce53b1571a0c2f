#!/usr/bin/env bash
# A deployment build: compress a trained network, check the file, try it, and leave it with a report in OUT.
#
#   bash sample_models/deploy/build.sh                       # the digits, in about a minute
#   MODEL=base.pt DATA=imagefolder:photos SELECT="--target-speedup 2x" GATES="--max-drop 0.5 --max-latency 12ms" \
#       IMAGES=samples OUT=release bash build.sh             # your own; IMAGES: a few .pgm or .ppm, or empty
#
# Exit code 3: a gate was not passed, and there is no model.onnx. Started again it goes on where it was interrupted;
# what is finished, for the same MODEL and options, is not done again.
set -euo pipefail

here=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)
MODEL=${MODEL:-$here/../digits_resnet20.pt}
DATA=${DATA:-digits}
SELECT=${SELECT:---target-macs 50%}
GATES=${GATES:---max-drop 1}
OPTIONS=${OPTIONS:---batch-size 64}
IMAGES=${IMAGES-$here/digits}
OUT=${OUT:-release}

for tool in greg jq python3; do
    command -v "$tool" > /dev/null || { echo "build.sh: $tool is missing; install it" >&2; exit 1; }
done
read -ra words <<< "$SELECT $GATES $OPTIONS"
mkdir -p "$OUT"
rm -f "$OUT/model.onnx" "$OUT/model.onnx.sha256" # of an earlier build: this one may fail

status=0
greg compress "$MODEL" --data "$DATA" "${words[@]}" -o "$OUT/model.onnx" --force --json > "$OUT/report.json" || status=$?
if [ "$status" -eq 3 ]; then jq -r '"build.sh: a gate was not passed: " + .reason' "$OUT/report.json" >&2; fi
if [ "$status" -ne 0 ]; then exit "$status"; fi

jq -r '
    def points: . * 100 | round / 100;
    "| | before | after |", "|---|---|---|",
    "| parameters | \(.dense.params) | \(.pruned.params) |",
    "| MACs | \(.dense.macs) | \(.pruned.macs) |",
    "| bytes | \(.dense.onnx_size) | \(.pruned.onnx_size) |",
    "| top-1 | \(.dense.top1 | points)% | \(.pruned.top1 | points)% |",
    "| latency p50 | \(.dense.p50_ms * 1000 | round / 1000) ms | \(.pruned.p50_ms * 1000 | round / 1000) ms |"
' "$OUT/report.json" | tee -a "${GITHUB_STEP_SUMMARY:-/dev/null}"

if [ -n "$IMAGES" ]; then # as a device will run it: without torch, without greg
    python3 "$here/run.py" "$OUT/model.onnx" "$IMAGES"/*.p[gp]m
fi
(cd "$OUT" && sha256sum model.onnx > model.onnx.sha256)
echo "$OUT/model.onnx, $(jq -r '.speedup * 100 | round / 100' "$OUT/report.json") times as fast"
