"""VGG for small images: convolutions with BatchNorm and one linear layer (Simonyan & Zisserman, 2015).

VGG-19 with 100 classes has 20.0 M parameters and 398.2 M MACs at 32x32.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

WIDTHS = (64, 128, 256, 512, 512)


class VGGCifar(nn.Module):
    """Five stages of `depths` convolutions; pooled by 2 after each but the last, which is pooled whole.

    Pooling the last stage whole is what pooling by 2 does at 32x32, and also fits 28x28.
    """

    def __init__(self, depths: Sequence[int], in_channels: int, num_classes: int) -> None:
        super().__init__()
        self.input_shape = (in_channels, 32, 32)
        layers: list[nn.Module] = []
        channels = in_channels
        for stage, (depth, width) in enumerate(zip(depths, WIDTHS, strict=True)):
            if stage:
                layers.append(nn.MaxPool2d(2))
            for _ in range(depth):
                convolution = nn.Conv2d(channels, width, 3, padding=1, bias=False)
                nn.init.kaiming_normal_(convolution.weight, mode="fan_out", nonlinearity="relu")
                layers += [convolution, nn.BatchNorm2d(width), nn.ReLU(inplace=True)]
                channels = width
        self.features = nn.Sequential(*layers, nn.AdaptiveMaxPool2d(1))
        self.classifier = nn.Linear(channels, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.classifier(self.features(x).flatten(1))
        return logits


def vgg11(in_channels: int = 3, num_classes: int = 10) -> VGGCifar:
    return VGGCifar((1, 1, 2, 2, 2), in_channels, num_classes)


def vgg13(in_channels: int = 3, num_classes: int = 10) -> VGGCifar:
    return VGGCifar((2, 2, 2, 2, 2), in_channels, num_classes)


def vgg16(in_channels: int = 3, num_classes: int = 10) -> VGGCifar:
    return VGGCifar((2, 2, 3, 3, 3), in_channels, num_classes)


def vgg19(in_channels: int = 3, num_classes: int = 10) -> VGGCifar:
    return VGGCifar((2, 2, 4, 4, 4), in_channels, num_classes)
