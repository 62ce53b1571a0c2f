"""ResNets for small images (He et al., 2016, section 4.2), with parameter-free option-A shortcuts.

ResNet-56 for CIFAR-10 has 0.85 M parameters and 125.5 M MACs at 32x32.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn


class BasicBlock(nn.Module):
    """Two 3x3 convolutions; the shortcut subsamples and pads channels with zeros on both sides."""

    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.stride = stride
        self.padding = (channels - in_channels) // 2

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        if self.padding:
            x = F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, self.padding, self.padding))
        return F.relu(out + x)


class ResNetCifar(nn.Module):
    """Three stages of `blocks` blocks, `width`, `2 * width` and `4 * width` channels wide."""

    def __init__(self, blocks: int, in_channels: int, num_classes: int, width: int) -> None:
        super().__init__()
        self.input_shape = (in_channels, 32, 32)
        self.conv1 = nn.Conv2d(in_channels, width, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.layer1 = self._stage(blocks, width, width, stride=1)
        self.layer2 = self._stage(blocks, width, 2 * width, stride=2)
        self.layer3 = self._stage(blocks, 2 * width, 4 * width, stride=2)
        self.fc = nn.Linear(4 * width, num_classes)
        for module in self.modules():
            if isinstance(module, (nn.Conv2d, nn.Linear)):
                nn.init.kaiming_normal_(module.weight)

    @staticmethod
    def _stage(blocks: int, in_channels: int, channels: int, stride: int) -> nn.Sequential:
        first = BasicBlock(in_channels, channels, stride)
        return nn.Sequential(first, *(BasicBlock(channels, channels, 1) for _ in range(blocks - 1)))

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        logits: Tensor = self.fc(x.mean((2, 3)))
        return logits


def resnet20(in_channels: int = 3, num_classes: int = 10, width: int = 16) -> ResNetCifar:
    return ResNetCifar(3, in_channels, num_classes, width)


def resnet32(in_channels: int = 3, num_classes: int = 10, width: int = 16) -> ResNetCifar:
    return ResNetCifar(5, in_channels, num_classes, width)


def resnet44(in_channels: int = 3, num_classes: int = 10, width: int = 16) -> ResNetCifar:
    return ResNetCifar(7, in_channels, num_classes, width)


def resnet56(in_channels: int = 3, num_classes: int = 10, width: int = 16) -> ResNetCifar:
    return ResNetCifar(9, in_channels, num_classes, width)


def resnet110(in_channels: int = 3, num_classes: int = 10, width: int = 16) -> ResNetCifar:
    return ResNetCifar(18, in_channels, num_classes, width)
