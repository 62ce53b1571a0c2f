#!/usr/bin/env bash
# The whole chain on Fashion-MNIST, about a quarter of an hour on 2 cores.
# Usage: bash fashion_mnist.sh ROOT [DIR]; ROOT holds torchvision's FashionMNIST/raw, DIR gets the files.
set -euo pipefail
data=fashion-mnist:${1:?usage: bash fashion_mnist.sh ROOT [DIR]}
out=${2:-greg-fashion-mnist}
arch=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)/resnet_cifar.py:resnet20
mkdir -p "$out"

greg train --arch "$arch" --arch-arg in_channels=1 --data "$data" --epochs 3 -o "$out/base.pt"
greg regularize "$out/base.pt" --data "$data" --ratios 0.5 -o "$out/regularized.pt"
greg prune "$out/regularized.pt" -o "$out/pruned.pt"
greg evaluate "$out/pruned.pt" --data "$data"
greg finetune "$out/pruned.pt" --data "$data" --epochs 3 -o "$out/final.pt"
greg evaluate "$out/final.pt" --data "$data"
greg export "$out/final.pt" --baseline "$out/base.pt" -o "$out/final.onnx"
