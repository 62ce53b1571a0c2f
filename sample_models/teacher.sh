#!/usr/bin/env bash
# One-shot, GReg-1 and GReg-2 at a ratio of 0.9 on Fashion-MNIST, each fine-tuned with and without a teacher.
# Usage: bash teacher.sh ROOT [DIR]; ROOT holds torchvision's FashionMNIST/raw, DIR gets the files.
set -euo pipefail
data=fashion-mnist:${1:?usage: bash teacher.sh ROOT [DIR]}
out=${2:-greg-teacher}
arch=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)/resnet_cifar.py:resnet20
mkdir -p "$out"

greg train --arch "$arch" --arch-arg in_channels=1 --data "$data" --epochs 12 -o "$out/base.pt"
greg prune "$out/base.pt" --ratios 0.9 -o "$out/one-shot.pt"
for method in greg-1 greg-2; do
    greg regularize "$out/base.pt" --data "$data" --ratios 0.9 --method "$method" -o "$out/$method-regularized.pt"
    greg prune "$out/$method-regularized.pt" -o "$out/$method.pt"
done
for way in one-shot greg-1 greg-2; do
    greg finetune "$out/$way.pt" --data "$data" -o "$out/$way-plain.pt"
    greg finetune "$out/$way.pt" --data "$data" --teacher "$out/base.pt" -o "$out/$way-taught.pt"
done
