#!/bin/sh
# Sort pictures on a device: every .pgm and .ppm of INBOX goes to SORTED/CLASS/, and what was found is counted.
#
#   sh sort.sh model.onnx INBOX SORTED           for instance from cron, on what a camera has left in INBOX
#
# It takes a POSIX shell and a Python with numpy and onnxruntime (run.py beside it). Nothing is moved unless every
# picture was classified.
set -eu
[ $# -eq 3 ] || { echo "usage: sh sort.sh model.onnx INBOX SORTED" >&2; exit 2; }
model=$1 inbox=$2 sorted=$3
here=$(dirname -- "$0")

set --
for picture in "$inbox"/*.pgm "$inbox"/*.ppm; do
    if [ -f "$picture" ]; then set -- "$@" "$picture"; fi
done
if [ $# -eq 0 ]; then echo "nothing in $inbox"; exit 0; fi

lines=$(mktemp)
trap 'rm -f "$lines"' EXIT
"${PYTHON:-python3}" "$here/run.py" "$model" "$@" > "$lines"

tab=$(printf '\t')
while IFS=$tab read -r picture class _probability; do
    mkdir -p "$sorted/$class"
    mv "$picture" "$sorted/$class/"
done < "$lines"
cut -f 2 "$lines" | sort -n | uniq -c | while read -r count class; do echo "class $class: $count"; done
