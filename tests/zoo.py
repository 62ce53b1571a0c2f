"""Small networks, one per wiring. Each says which groups it has: name -> (channels, free | coupled | frozen)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sample_models.resnet_cifar import ResNetCifar

FREE, COUPLED, FROZEN = "free", "coupled", "frozen"
INPUT = (3, 8, 8)


def conv(inputs: int, outputs: int, size: int = 3, **kwargs: int | bool) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, size, padding=size // 2, **kwargs)  # type: ignore[arg-type]


class Chain(nn.Module):
    """conv - BatchNorm - relu - conv - flatten into linear: a unit of `b` is 16 inputs of `fc`."""

    groups = {"a": (6, FREE), "b": (5, FREE), "fc": (4, FROZEN)}

    def __init__(self) -> None:
        super().__init__()
        self.a, self.bn, self.b = conv(3, 6, bias=False), nn.BatchNorm2d(6), conv(6, 5)
        self.fc = nn.Linear(5 * 16, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn(self.a(x)), inplace=True)
        return self.fc(F.max_pool2d(F.relu(self.b(x)), 2).flatten(1))


class Hidden(nn.Module):
    """Linear layers in a row: a matrix that loses rows and columns at once."""

    groups = {"a": (6, FREE), "h": (7, FREE), "i": (5, FREE), "fc": (4, FROZEN)}

    def __init__(self) -> None:
        super().__init__()
        self.a, self.h, self.i, self.fc = conv(3, 6), nn.Linear(384, 7), nn.Linear(7, 5), nn.Linear(5, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.h(F.relu(self.a(x)).flatten(1)))
        return self.fc(F.dropout(F.relu(self.i(x)), 0.5, self.training))


class Residual(nn.Module):
    """Two blocks on one stream: stem and block ends are coupled, the block's first convs are free."""

    groups = {"stem": (6, COUPLED), "a1": (5, FREE), "b1": (4, FREE), "fc": (4, FROZEN)}

    def __init__(self) -> None:
        super().__init__()
        self.stem = conv(3, 6)
        self.a1, self.a2 = conv(6, 5), conv(5, 6)
        self.b1, self.b2 = conv(6, 4), conv(4, 6)
        self.bn = nn.BatchNorm2d(6)
        self.fc = nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn(self.stem(x)))
        x = F.relu(x + self.a2(F.relu(self.a1(x))))
        out = self.b2(F.relu(self.b1(x)))
        out += x
        return self.fc(out.mean((2, 3)))


class Projection(nn.Module):
    """A block whose shortcut has a convolution of its own (ResNet-50's downsample)."""

    groups = {"stem": (4, FREE), "a1": (5, FREE), "a2": (6, COUPLED), "fc": (4, FROZEN)}

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.a1, self.a2, self.short = conv(3, 4), conv(4, 5), conv(5, 6), conv(4, 6, 1)
        self.fc = nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem(x))
        x = F.relu(self.a2(F.relu(self.a1(x))) + self.short(x))
        return self.fc(F.adaptive_avg_pool2d(x, 1).flatten(1))


class OptionA(ResNetCifar):
    """Shortcuts that subsample and pad with zeros: the padding's channels belong to no unit.

    The middle of each stage is tied to the stage before; its edges line up with constant zeros, so that
    they cannot be cut.
    """

    groups = {
        "conv1": (4, COUPLED),
        "layer1.0.conv1": (4, FREE),
        "layer2.0.conv1": (8, FREE),
        "layer2.0.conv2": (4, FROZEN),
        "layer3.0.conv1": (16, FREE),
        "layer3.0.conv2": (8, FROZEN),
        "fc": (10, FROZEN),
    }

    def __init__(self) -> None:
        super().__init__(1, 3, 10, 4)


class Concat(nn.Module):
    """A concat in both orders, and of a tensor with itself."""

    groups = {"a": (3, FREE), "b": (4, FREE), "c": (5, FREE), "fc": (4, FROZEN)}

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = conv(3, 3), conv(3, 4), conv(14, 5)
        self.bn = nn.BatchNorm2d(14)
        self.fc = nn.Linear(10, 4)

    def forward(self, x: Tensor) -> Tensor:
        a, b = F.relu(self.a(x)), F.relu(self.b(x))
        x = F.relu(self.c(self.bn(torch.cat([a, b, b, a], 1))))
        return self.fc(torch.cat([x, x], 1).amax((2, 3)))


class Grouped(nn.Module):
    """A grouped convolution loses equal offsets in every group; a depthwise one follows its input."""

    groups = {"a": (3, FREE), "g": (4, FREE), "fc": (4, FROZEN)}

    def __init__(self) -> None:
        super().__init__()
        self.a, self.g, self.d = conv(3, 6), conv(6, 8, groups=2), conv(8, 16, groups=8)
        self.fc = nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(F.relu(self.d(F.relu(self.g(F.relu(self.a(x)))))).mean((2, 3)))


class Gated(nn.Module):
    """Squeeze-and-excite: the gate's last layer goes with the channels that it scales, uncoupled."""

    groups = {"a": (6, FREE), "squeeze": (3, FREE), "fc": (4, FROZEN)}

    def __init__(self) -> None:
        super().__init__()
        self.a, self.squeeze, self.excite = conv(3, 6), conv(6, 3, 1), conv(3, 6, 1)
        self.fc = nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.a(x))
        gate = torch.sigmoid(self.excite(F.relu(self.squeeze(x.mean((2, 3), keepdim=True)))))
        return self.fc((x * gate).mean((2, 3)))


class Strided(nn.Module):
    """Every second channel is read: cut at will the network still runs, and reads the wrong ones."""

    groups = {"a": (4, FROZEN), "a#2": (4, FROZEN), "fc": (4, FROZEN)}

    def __init__(self) -> None:
        super().__init__()
        self.a, self.fc = conv(3, 8), nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(F.relu(self.a(x))[:, 0::2].mean((2, 3)))


class Mixed(nn.Module):
    """Softmax over channels mixes them: nobody's unit can go."""

    groups = {"a": (6, FROZEN), "b": (5, FREE), "fc": (4, FROZEN)}

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.fc = conv(3, 6), conv(6, 5), nn.Linear(5, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(F.relu(self.b(self.a(x).softmax(1))).mean((2, 3)))


class OneChannel(nn.Module):
    """Layers of one channel: a dimension of size 1 is a real channel, and cannot be emptied."""

    groups = {"a": (1, FREE), "b": (4, FREE), "fc": (4, FROZEN)}

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.fc = conv(3, 1), conv(1, 4), nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(F.relu(self.b(F.relu(self.a(x)))).mean((2, 3)))


class PerChannel(nn.Module):
    """A learned scale per channel, PReLU, and spatial attention by a single channel."""

    groups = {"a": (6, FREE), "attend": (1, FROZEN), "fc": (4, FROZEN)}

    def __init__(self) -> None:
        super().__init__()
        self.a, self.attend, self.fc = conv(3, 6), conv(6, 1), nn.Linear(6, 4)
        self.scale = nn.Parameter(torch.rand(1, 6, 1, 1) + 0.5)
        self.act = nn.PReLU(6)

    def forward(self, x: Tensor) -> Tensor:
        x = self.act(self.a(x)) * self.scale
        return self.fc((x * torch.sigmoid(self.attend(x))).mean((2, 3)))


class TrainOnly(nn.Module):
    """A head that reads the trunk in training only, and a module that never runs."""

    groups = {"a": (6, FREE), "fc": (4, FROZEN), "aux": (4, FROZEN)}

    def __init__(self) -> None:
        super().__init__()
        self.a, self.fc, self.aux = conv(3, 6), nn.Linear(6, 4), nn.Linear(6, 4)
        self.unused = nn.Linear(6, 6)

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        x = F.relu(self.a(x)).mean((2, 3))
        return (self.fc(x), self.aux(x)) if self.training else self.fc(x)


class Padded(nn.Module):
    """Zeros around the image belong to their channel, unlike zeros around the channels."""

    groups = {"a": (6, FREE), "b": (5, FREE), "fc": (4, FROZEN)}

    def __init__(self) -> None:
        super().__init__()
        self.pad = nn.ZeroPad2d((0, 1, 0, 1))
        self.a, self.b, self.fc = nn.Conv2d(3, 6, 2), nn.Conv2d(6, 5, 4), nn.Linear(5, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(F.relu(self.b(F.pad(F.relu(self.a(self.pad(x))), (1, 2, 1, 2)))).mean((2, 3)))


class Shared(nn.Module):
    """One module under two names, another called twice, and a weight tied between two modules: one group."""

    groups = {"a": (4, FREE), "fc": (4, FROZEN)}

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = conv(3, 4), conv(4, 4, bias=False)
        self.alias = nn.Sequential(self.a, nn.ReLU())
        self.t, self.u = conv(4, 4, bias=False), conv(4, 4, bias=False)
        self.u.weight = self.t.weight
        self.fc = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.alias(x)
        x = x + F.relu(self.b(F.relu(self.b(x))))
        return self.fc(self.u(F.relu(self.t(x))).mean((2, 3)))


class Halves(nn.Module):
    """Two halves of one layer that can only lose equal counts."""

    groups = {"a": (4, FROZEN), "a#2": (4, FROZEN), "b": (5, FREE), "fc": (4, FROZEN)}

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c, self.fc = conv(3, 8), conv(4, 5), conv(4, 5), nn.Linear(5, 4)

    def forward(self, x: Tensor) -> Tensor:
        a, b = F.relu(self.a(x)).chunk(2, 1)
        return self.fc((F.relu(self.b(a)) * F.relu(self.c(b))).mean((2, 3)))


class Fixed(nn.Module):
    """A filter that is a buffer, a shortcut of new zeros, and a scale that training does not see."""

    groups = {"a": (4, FROZEN), "b": (4, FREE), "fc": (4, FROZEN)}

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.fc = conv(3, 4), conv(4, 4), nn.Linear(4, 4)
        self.register_buffer("blur", torch.ones(4, 1, 3, 3) / 9)
        self.register_buffer("gain", torch.rand(4, 1, 1) + 0.5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.conv2d(F.relu(self.a(x)), self.blur, padding=1, groups=4)
        x = F.relu(self.b(x)) * self.gain
        return self.fc((x + torch.zeros_like(x)).mean((2, 3)))


ZOO: list[Callable[[], nn.Module]] = [
    *(Chain, Hidden, Residual, Projection, OptionA, Concat, Grouped, Gated, Strided, Mixed),
    *(OneChannel, PerChannel, TrainOnly, Padded, Shared, Halves, Fixed),
]


@dataclass(frozen=True)
class Block:
    """A way to go on from `channels` channels, for networks built at random."""

    kind: str
    width: int


class Random(nn.Module):
    """A network of blocks; its repr is all that is needed to build it again."""

    def __init__(self, blocks: list[Block]) -> None:
        super().__init__()
        self.blocks = blocks
        self.layers = nn.ModuleList()
        channels = 3
        for block in blocks:
            channels = self._add(block, channels)
        self.fc = nn.Linear(channels, 4)

    def _add(self, block: Block, channels: int) -> int:
        width = block.width
        parts: dict[str, nn.Module] = {}
        if block.kind in ("plain", "option_a"):
            width = channels + 2 * block.width if block.kind == "option_a" else width
            parts = {"a": conv(channels, width), "bn": nn.BatchNorm2d(width)}
        elif block.kind == "residual":
            parts = {"a": conv(channels, width), "bn": nn.BatchNorm2d(width), "b": conv(width, channels)}
            width = channels
        elif block.kind == "concat":
            parts = {"a": conv(channels, width), "b": conv(channels, width + 1)}
            width = 2 * width + 1
        elif block.kind == "gate":
            parts = {"a": conv(channels, width), "b": conv(width, 2, 1), "c": conv(2, width, 1)}
        elif block.kind == "depthwise":
            parts = {"a": conv(channels, channels, groups=channels), "b": conv(channels, width, 1)}
        self.layers.append(nn.ModuleDict(parts))
        return width

    def forward(self, x: Tensor) -> Tensor:
        for block, layer in zip(self.blocks, self.layers, strict=True):
            x = getattr(self, f"_{block.kind}")(block, layer, x)
        return self.fc(x.mean((2, 3)))

    def _plain(self, _: Block, m: nn.ModuleDict, x: Tensor) -> Tensor:
        return F.relu(m["bn"](m["a"](x)))

    def _option_a(self, block: Block, m: nn.ModuleDict, x: Tensor) -> Tensor:
        return F.relu(m["bn"](m["a"](x)) + F.pad(x, (0, 0, 0, 0, block.width, block.width)))

    def _residual(self, _: Block, m: nn.ModuleDict, x: Tensor) -> Tensor:
        return F.relu(x + m["b"](F.relu(m["bn"](m["a"](x)))))

    def _concat(self, _: Block, m: nn.ModuleDict, x: Tensor) -> Tensor:
        return F.relu(torch.cat([m["b"](x), m["a"](x)], 1))

    def _gate(self, _: Block, m: nn.ModuleDict, x: Tensor) -> Tensor:
        x = F.relu(m["a"](x))
        return x * torch.sigmoid(m["c"](F.relu(m["b"](x.mean((2, 3), keepdim=True)))))

    def _depthwise(self, _: Block, m: nn.ModuleDict, x: Tensor) -> Tensor:
        return F.relu(m["b"](F.relu(m["a"](x))))

    def __repr__(self) -> str:
        return f"Random({self.blocks})"


KINDS = ("plain", "option_a", "residual", "concat", "gate", "depthwise")


def settle(model: nn.Module, seed: int = 0) -> nn.Module:
    """Give BatchNorms statistics and affine values that are neither 0 nor 1, in float64 and eval mode."""
    random = torch.Generator().manual_seed(seed)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor in (module.weight, module.bias, module.running_mean, module.running_var):
                assert tensor is not None
                tensor.data = torch.rand(tensor.shape, generator=random) + 0.5
    return model.double().eval()
