"""Small networks, one per wiring. Each says which groups it has: name -> (channels, free | coupled | frozen)."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from greg_compress.wiring.skeleton import Shapes
from sample_models.resnet_cifar import ResNetCifar

FREE, COUPLED, FROZEN = "free", "coupled", "frozen"
INPUT = (3, 8, 8)


def conv(inputs: int, outputs: int, size: int = 3, **kwargs: int | bool) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, size, padding=size // 2, **kwargs)  # type: ignore[arg-type]


class Chain(nn.Module):
    """conv - BatchNorm - relu - conv - flatten into linear: a unit of `b` is 16 inputs of `fc`."""

    groups = {"a": (6, FREE), "b": (5, FREE), "fc": (4, FROZEN)}
    params, macs = (773, 275), (27968, 8768)

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
    params, macs = (2927, 683), (13111, 5774)

    def __init__(self) -> None:
        super().__init__()
        self.a, self.h, self.i, self.fc = conv(3, 6), nn.Linear(384, 7), nn.Linear(7, 5), nn.Linear(5, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.h(F.relu(self.a(x)).flatten(1)))
        return self.fc(F.dropout(F.relu(self.i(x)), 0.5, self.training))


class Residual(nn.Module):
    """Two blocks on one stream: stem and block ends are coupled, the block's first convs are free."""

    groups = {"stem": (6, COUPLED), "a1": (5, FREE), "b1": (4, FREE), "fc": (4, FROZEN)}
    params, macs = (1201, 656), (72600, 38040)

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
    params, macs = (631, 254), (37272, 13464)

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
    params, macs = (5006, 2674), (53152, 30112)

    def __init__(self) -> None:
        super().__init__(1, 3, 10, 4)


class Concat(nn.Module):
    """A concat in both orders, and of a tensor with itself."""

    groups = {"a": (3, FREE), "b": (4, FREE), "c": (5, FREE), "fc": (4, FROZEN)}
    params, macs = (903, 226), (52456, 12112)

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
    """Two groups of three inputs and four outputs: equal offsets in both are the finer cut."""

    groups = {"a": (3, FREE), "g": (4, FREE), "fc": (4, FROZEN)}
    params, macs = (428, 116), (24224, 5776)

    def __init__(self) -> None:
        super().__init__()
        self.a, self.g, self.fc = conv(3, 6), conv(6, 8, groups=2), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(F.relu(self.g(F.relu(self.a(x)))).mean((2, 3)))


class WholeGroups(nn.Module):
    """Four groups of two inputs and three outputs: a whole group is the finer cut, 5 channels at once."""

    groups = {"a": (4, FREE), "b": (5, FREE), "fc": (4, FROZEN)}
    params, macs = (1045, 360), (62228, 20744)

    def __init__(self) -> None:
        super().__init__()
        self.a, self.g, self.bn = conv(3, 8), conv(8, 12, groups=4), nn.BatchNorm2d(12)
        self.b, self.fc = conv(12, 5), nn.Linear(5, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn(self.g(F.relu(self.a(x)))))
        return self.fc(F.relu(self.b(x)).mean((2, 3)))


class Depthwise(nn.Module):
    """A depthwise convolution follows the channels that it reads, with a multiplier of 1 and of 2."""

    groups = {"a": (6, FREE), "b": (5, FREE), "fc": (4, FROZEN)}
    params, macs = (407, 182), (21544, 9616)

    def __init__(self) -> None:
        super().__init__()
        self.a, self.d, self.b = conv(3, 6), conv(6, 6, groups=6), conv(6, 5, 1)
        self.m, self.fc = conv(5, 10, groups=5), nn.Linear(10, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.b(F.relu(self.d(F.relu(self.a(x))))))
        return self.fc(F.relu(self.m(x)).mean((2, 3)))


class Gated(nn.Module):
    """Squeeze-and-excite: the gate's last layer goes with the channels that it scales, uncoupled."""

    groups = {"a": (6, FREE), "squeeze": (3, FREE), "fc": (4, FROZEN)}
    params, macs = (241, 110), (10428, 5202)

    def __init__(self) -> None:
        super().__init__()
        self.a, self.squeeze, self.excite = conv(3, 6), conv(6, 3, 1), conv(3, 6, 1)
        self.fc = nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.a(x))
        gate = torch.sigmoid(self.excite(F.relu(self.squeeze(x.mean((2, 3), keepdim=True)))))
        return self.fc((x * gate).mean((2, 3)))


class Strided(nn.Module):
    """Every second channel is read: two neighbours go together, or the rest would read the wrong ones."""

    groups = {"a": (4, FREE), "b": (5, FREE), "fc": (4, FROZEN)}
    params, macs = (433, 162), (25364, 9224)

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.fc = conv(3, 8), conv(4, 5), nn.Linear(5, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(F.relu(self.b(F.relu(self.a(x))[:, 0::2])).mean((2, 3)))


class Rolled(nn.Module):
    """The last channel comes first: it has to stay the last one, so that none is cut."""

    groups = {"a": (6, FROZEN), "b": (5, FREE), "fc": (4, FROZEN)}
    params, macs = (467, 290), (27668, 17288)

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.fc = conv(3, 6), conv(6, 5), nn.Linear(5, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(F.relu(self.b(F.relu(self.a(x)).roll(1, 1))).mean((2, 3)))


class Mixed(nn.Module):
    """Softmax over channels mixes them: nobody's unit can go."""

    groups = {"a": (6, FROZEN), "b": (5, FREE), "fc": (4, FROZEN)}
    params, macs = (467, 290), (27668, 17288)

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.fc = conv(3, 6), conv(6, 5), nn.Linear(5, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(F.relu(self.b(self.a(x).softmax(1))).mean((2, 3)))


class OneChannel(nn.Module):
    """Layers of one channel: a dimension of size 1 is a real channel, and cannot be emptied."""

    groups = {"a": (1, FREE), "b": (4, FREE), "fc": (4, FROZEN)}
    params, macs = (88, 60), (4048, 2888)

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.fc = conv(3, 1), conv(1, 4), nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(F.relu(self.b(F.relu(self.a(x)))).mean((2, 3)))


class PerChannel(nn.Module):
    """A learned scale per channel, PReLU, and spatial attention by a single channel."""

    groups = {"a": (6, FREE), "attend": (1, FROZEN), "fc": (4, FROZEN)}
    params, macs = (263, 134), (13848, 6924)

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
    params, macs = (266, 158), (10392, 5196)

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
    params, macs = (587, 149), (35348, 8456)

    def __init__(self) -> None:
        super().__init__()
        self.pad = nn.ZeroPad2d((0, 1, 0, 1))
        self.a, self.b, self.fc = nn.Conv2d(3, 6, 2), nn.Conv2d(6, 5, 4), nn.Linear(5, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(F.relu(self.b(F.pad(F.relu(self.a(self.pad(x))), (1, 2, 1, 2)))).mean((2, 3)))


class Shared(nn.Module):
    """One module under two names, another called twice, and a weight tied between two modules: one group."""

    groups = {"a": (4, FREE), "fc": (4, FROZEN)}
    params, macs = (420, 140), (43792, 12680)

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


class Chunked(nn.Module):
    """The halves of one layer can only lose equal counts, so that equal offsets go together."""

    groups = {"a": (4, FREE), "b": (5, FREE), "fc": (4, FROZEN)}
    params, macs = (618, 200), (36884, 11528)

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c, self.fc = conv(3, 8), conv(4, 5), conv(4, 5), nn.Linear(5, 4)

    def forward(self, x: Tensor) -> Tensor:
        a, b = F.relu(self.a(x)).chunk(2, 1)
        return self.fc((F.relu(self.b(a)) * F.relu(self.c(b))).mean((2, 3)))


class FixedHalves(Chunked):
    """The same with sizes that are written in the code, and do not follow a cut."""

    groups = {"a": (4, FROZEN), "a#2": (4, FROZEN), "b": (5, FREE), "fc": (4, FROZEN)}
    params, macs = (618, 384), (36884, 23048)

    def forward(self, x: Tensor) -> Tensor:
        a, b = F.relu(self.a(x)).split([4, 4], 1)
        return self.fc((F.relu(self.b(a)) * F.relu(self.c(b))).mean((2, 3)))


class Written(nn.Module):
    """Zeros, and two tensors written into slices of them."""

    groups = {"a": (3, FREE), "b": (4, FREE), "c": (5, FREE), "fc": (4, FROZEN)}
    params, macs = (540, 152), (32276, 8648)

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c, self.fc = conv(3, 3), conv(3, 4), conv(7, 5), nn.Linear(5, 4)

    def forward(self, x: Tensor) -> Tensor:
        a, b = F.relu(self.a(x)), F.relu(self.b(x))
        both = x.new_zeros(x.shape[0], a.shape[1] + b.shape[1], *x.shape[2:])
        both[:, : a.shape[1]] = a
        both[:, a.shape[1] :] += b
        return self.fc(F.relu(self.c(both)).mean((2, 3)))


class GatedHalves(nn.Module):
    """GLU: channel j of the first half times the sigmoid of channel j of the second."""

    groups = {"a": (4, FREE), "b": (5, FREE), "fc": (4, FROZEN)}
    params, macs = (449, 170), (25364, 9224)

    def __init__(self) -> None:
        super().__init__()
        self.a, self.bn, self.b, self.fc = conv(3, 8), nn.BatchNorm2d(8), conv(4, 5), nn.Linear(5, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(F.relu(self.b(F.glu(self.bn(self.a(x)), 1))).mean((2, 3)))


class Upward(nn.Module):
    """Transposed convolutions (plain, grouped, whole groups, depthwise), upsampling, and a skip by concat."""

    groups = {"a": (4, FREE), "up": (3, FREE), "g": (3, FREE), "b": (4, FREE), "fc": (4, FROZEN)}
    params, macs = (1330, 352), (83376, 23320)

    def __init__(self) -> None:
        super().__init__()
        self.a = conv(3, 4)
        self.up, self.bn = nn.ConvTranspose2d(4, 6, 2, stride=2), nn.BatchNorm2d(6)
        self.g = nn.ConvTranspose2d(6, 6, 3, padding=1, groups=2)
        self.b = conv(10, 8)
        self.w = nn.ConvTranspose2d(8, 12, 2, stride=2, groups=4, bias=False)
        self.d = nn.ConvTranspose2d(12, 12, 2, groups=12)
        self.fc = nn.Linear(12, 4)

    def forward(self, x: Tensor) -> Tensor:
        a = F.relu(self.a(x))
        x = F.relu(self.g(F.relu(self.bn(self.up(F.max_pool2d(a, 2))))))
        x = F.interpolate(F.avg_pool2d(x, 2), scale_factor=2, mode="bilinear")
        x = F.relu(self.b(torch.cat([a, x], 1)))
        return self.fc(F.relu(self.d(F.relu(self.w(x)))).mean((2, 3)))


class OneDimension(nn.Module):
    """Signals: 1-d convolutions, BatchNorm, pooling and upsampling."""

    inputs = ((2, 16),)
    groups = {"a": (6, FREE), "up": (4, FREE), "b": (5, FREE), "fc": (4, FROZEN)}
    params, macs = (195, 67), (1268, 416)

    def __init__(self) -> None:
        super().__init__()
        self.a, self.bn = nn.Conv1d(2, 6, 3), nn.BatchNorm1d(6)
        self.up, self.b, self.fc = nn.ConvTranspose1d(6, 4, 2, 2), nn.Conv1d(4, 5, 3, groups=1), nn.Linear(5, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = F.avg_pool1d(F.max_pool1d(F.relu(self.bn(self.a(x))), 2), 2)
        x = F.interpolate(F.relu(self.up(x)), scale_factor=2)
        return self.fc(F.adaptive_avg_pool1d(F.relu(self.b(x)), 1).flatten(1))


class ThreeDimensions(nn.Module):
    """Volumes: 3-d convolutions, BatchNorm and every 3-d pooling."""

    inputs = ((2, 4, 8, 8),)
    groups = {"a": (6, FREE), "b": (5, FREE), "fc": (4, FROZEN)}
    params, macs = (641, 239), (102404, 45368)

    def __init__(self) -> None:
        super().__init__()
        self.a, self.bn, self.b = nn.Conv3d(2, 6, 3, padding=1), nn.BatchNorm3d(6), nn.Conv3d(6, 5, (1, 3, 3))
        self.fc = nn.Linear(5, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool3d(F.relu(self.bn(self.a(x))), (2, 1, 1))
        x = F.avg_pool3d(F.relu(self.b(x)), (1, 2, 2))
        return self.fc(F.adaptive_max_pool3d(x, 1).flatten(1))


class TwoInputs(nn.Module):
    """An image and a vector, of which the vector scales the image's channels."""

    inputs = (INPUT, (7,))
    groups = {"a": (6, FREE), "fc": (4, FROZEN)}
    params, macs = (244, 124), (10434, 5217)

    def __init__(self) -> None:
        super().__init__()
        self.a, self.v, self.fc = conv(3, 6), nn.Linear(7, 6), nn.Linear(6, 4)

    def forward(self, x: Tensor, vector: Tensor) -> Tensor:
        return self.fc((F.relu(self.a(x)) * self.v(vector)[:, :, None, None]).mean((2, 3)))


class TwoOutputs(nn.Module):
    """A feature map that leaves the network is frozen, whoever reads it next."""

    groups = {"a": (6, FREE), "b": (5, FROZEN), "fc": (4, FROZEN)}
    params, macs = (467, 248), (27668, 13844)

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.fc = conv(3, 6), conv(6, 5), nn.Linear(5, 4)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        features = F.relu(self.b(F.relu(self.a(x))))
        return features, self.fc(features.mean((2, 3)))


class NamedOutputs(TwoOutputs):
    """The same in dictionaries and lists."""

    def forward(self, x: Tensor) -> dict[str, Any]:
        features, scores = super().forward(x)
        return {"scores": [scores], "features": features, "name": "this"}


class Functional(nn.Module):
    """A convolution, a BatchNorm and a matrix product that no modules of their own make."""

    groups = {"kernel": (5, FREE), "head": (4, FROZEN)}
    params, macs = (170, 68), (4880, 1952)

    def __init__(self) -> None:
        super().__init__()
        self.kernel, self.bias = nn.Parameter(torch.randn(5, 3, 3, 3)), nn.Parameter(torch.randn(5))
        self.scale, self.shift = nn.Parameter(torch.rand(5) + 0.5), nn.Parameter(torch.randn(5))
        self.register_buffer("mean", torch.randn(5))
        self.register_buffer("var", torch.rand(5) + 0.5)
        self.head = nn.Parameter(torch.randn(4, 5))

    def forward(self, x: Tensor) -> Tensor:
        x = F.conv2d(x, self.kernel, self.bias)
        x = F.relu(F.batch_norm(x, self.mean, self.var, self.scale, self.shift))
        return F.linear(x.mean((2, 3)), self.head)


class StackSum(nn.Module):
    """Branches stacked and summed up are an addition."""

    groups = {"a": (5, COUPLED), "c": (4, FREE), "fc": (4, FROZEN)}
    params, macs = (364, 264), (21136, 15368)

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c, self.fc = conv(3, 5), conv(3, 5, 1), conv(5, 4), nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        both = torch.stack([F.relu(self.a(x)), F.relu(self.b(x))], 1)
        return self.fc(F.relu(self.c(both.sum(1))).amax(3).mean(2))


class HalfSum(nn.Module):
    """The halves of one layer, summed up: no second layer is coupled to it. And what a view splits, summed up."""

    groups = {"a": (4, FREE), "b": (3, FREE), "fc": (4, FROZEN)}
    params, macs = (462, 158), (27660, 9220)

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.fc = conv(3, 8), conv(4, 6), nn.Linear(3, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.maximum(*self.a(x).chunk(2, 1))
        x = F.relu(self.b(x))
        x = x.view(x.shape[0], 2, x.shape[1] // 2, *x.shape[2:]).sum(1)
        return self.fc(x.mean((2, 3)))


class FirstFour(nn.Module):
    """The first four channels are read by number: they stay, and the others, which pass by, may go."""

    groups = {"a": (4, FROZEN), "a#2": (4, FREE), "b": (4, FREE), "fc": (4, FROZEN)}
    params, macs = (684, 364), (41488, 21896)

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c, self.fc = conv(3, 8), conv(4, 4), conv(8, 4), nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.a(x))
        return self.fc((self.b(x[:, :4]) * self.c(x)).mean((2, 3)))


class Instances(nn.Module):
    """InstanceNorm, which the framework writes as a BatchNorm over samples times channels."""

    groups = {"a": (6, FREE), "b": (5, FREE), "fc": (4, FROZEN)}
    params, macs = (479, 158), (27668, 8648)

    def __init__(self) -> None:
        super().__init__()
        self.a, self.norm, self.b = conv(3, 6), nn.InstanceNorm2d(6, affine=True), conv(6, 5)
        self.fc = nn.Linear(5, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(F.relu(self.b(F.relu(self.norm(self.a(x))))).mean((2, 3)))


class Casting(Chain):
    """Casts of the network's own, which must not keep the self-check from float64."""

    groups = {"a": (6, FREE), "b": (5, FREE), "fc": (4, FROZEN)}

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.to(self.fc.weight.dtype)) + torch.zeros(4, dtype=torch.float32, device=x.device)


class Numbers(nn.Module):
    """Channels that meet their own number: a table of positions, a scale, a bound, a divisor."""

    groups = {**dict.fromkeys("abcd", (6, FROZEN)), "e": (5, FREE), "fc": (4, FROZEN)}
    params, macs = (1457, 1280), (89876, 79496)

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c, self.d, self.e = conv(3, 6), conv(6, 6), conv(6, 6), conv(6, 6), conv(6, 5)
        self.fc = nn.Linear(5, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.a(x))
        x = x + torch.arange(x.shape[1], device=x.device)[:, None, None]
        x = F.relu(self.b(x))
        x = x * x.shape[1] ** -0.5
        x = F.relu(self.c(x))
        x = x.clamp(max=x.shape[1] / 60)
        x = F.relu(self.d(x))
        return self.fc(F.relu(self.e(x) / x.shape[1]).mean((2, 3)))  # the number is not that of what it divides


class Deciding(nn.Module):
    """A branch that a value decides, and a tensor outside the module tree: this runs on the CPU alone."""

    groups = {"a": (6, FREE), "fc": (4, FROZEN)}
    params, macs = (196, 100), (10392, 5196)

    def __init__(self) -> None:
        super().__init__()
        self.a, self.fc, self.scale = conv(3, 6), nn.Linear(6, 4), [torch.tensor(0.5, dtype=torch.float64)]

    def forward(self, x: Tensor) -> Tensor:
        if x.isnan().any().item():
            raise ValueError("not a number")
        return self.fc((F.relu(self.a(x)) * self.scale[0].to(x.dtype)).mean((2, 3)))


class Fixed(nn.Module):
    """A filter that is a buffer, a shortcut of new zeros, and a scale that training does not see."""

    groups = {"a": (4, FROZEN), "b": (4, FREE), "fc": (4, FROZEN)}
    params, macs = (280, 198), (18448, 13832)

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.fc = conv(3, 4), conv(4, 4), nn.Linear(4, 4)
        self.register_buffer("blur", torch.ones(4, 1, 3, 3) / 9)
        self.register_buffer("gain", torch.rand(4, 1, 1) + 0.5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.conv2d(F.relu(self.a(x)), self.blur, padding=1, groups=4)
        x = F.relu(self.b(x)) * self.gain
        return self.fc((x + torch.zeros_like(x)).mean((2, 3)))


class LayerNormed(nn.Module):
    """A block of ConvNeXt: LayerNorms over channels, a depthwise convolution, a hidden layer and a scaled shortcut."""

    groups = {"stem": (6, COUPLED), "up": (9, FREE), "fc": (4, FROZEN)}
    params, macs = (403, 338), (20760, 16920)

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.deep = conv(3, 6), conv(6, 6, groups=6)
        self.first, self.last = nn.LayerNorm(6), nn.LayerNorm(6, bias=False)
        self.up, self.down, self.scale = nn.Linear(6, 9), nn.Linear(9, 6), nn.Parameter(torch.rand(6, 1, 1) + 0.5)
        self.fc = nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        y = self.first(self.deep(x).permute(0, 2, 3, 1))
        x = x + self.scale * self.down(F.gelu(self.up(y))).permute(0, 3, 1, 2)
        return self.fc(self.last(x.mean((2, 3))))


class GroupNormed(nn.Module):
    """GroupNorm loses whole groups of channels; with a single group it is a norm over all of them."""

    groups = {"a": (4, FREE), "b": (6, FREE), "fc": (4, FROZEN)}
    params, macs = (718, 253), (41496, 13836)

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.fc = conv(3, 8), conv(8, 6), nn.Linear(6, 4)
        self.four, self.one = nn.GroupNorm(4, 8), nn.GroupNorm(1, 6)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.four(self.a(x)))
        return self.fc(F.relu(self.one(self.b(x))).mean((2, 3)))


class Shuffled(nn.Module):
    """A channel shuffle: what is left must be a product of two again."""

    groups = {"a": (4, FREE), "b": (5, FREE), "fc": (4, FROZEN)}
    params, macs = (613, 198), (36884, 11528)

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.fc = conv(3, 8), conv(8, 5), nn.Linear(5, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.a(x))
        x = x.view(x.shape[0], 2, x.shape[1] // 2, *x.shape[2:]).transpose(1, 2).flatten(1, 2)
        return self.fc(F.relu(self.b(x)).mean((2, 3)))


class Tokens(nn.Module):
    """A class token joins the patches, and an embedding of positions: all of them are one stream."""

    groups = {"patch": (6, COUPLED), "up": (9, FREE), "fc": (4, FROZEN)}
    params, macs = (481, 416), (1716, 1416)

    def __init__(self) -> None:
        super().__init__()
        self.patch, self.up, self.down = nn.Conv2d(3, 6, 4, 4), nn.Linear(6, 9), nn.Linear(9, 6)
        self.token, self.positions = nn.Parameter(torch.rand(1, 1, 6)), nn.Parameter(torch.rand(1, 5, 6))
        self.fc = nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(x.shape[0], -1, -1), x], dim=1) + self.positions
        return self.fc((x + self.down(F.gelu(self.up(x))))[:, 0])


class Attending(nn.Module):
    """Attention: queries, keys and values keep the shape of their heads; what feeds and follows them may go."""

    groups = {"patch": (6, FREE), "qkv": (18, FROZEN), "up": (9, FREE), "fc": (4, FROZEN)}

    def __init__(self) -> None:
        super().__init__()
        self.patch, self.qkv = nn.Conv2d(3, 6, 4, 4), nn.Linear(6, 18)
        self.up, self.fc = nn.Linear(6, 9), nn.Linear(9, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch(x).flatten(2).transpose(1, 2)
        q, k, v = self.qkv(x).view(x.shape[0], -1, 3, 2, 3).permute(2, 0, 3, 1, 4)
        x = ((q @ k.transpose(-2, -1)).softmax(-1) @ v).transpose(1, 2).flatten(2)
        return self.fc(F.relu(self.up(x)).mean(1))


class OwnNorms(nn.Module):
    """Normalisations over channels in the network's own classes, and a scalar that learns."""

    groups = {"a": (6, FREE), "up": (9, FREE), "fc": (4, FROZEN)}
    params, macs = (302, 135), (10458, 5212)

    class Norm(nn.Module):
        def __init__(self, channels: int, first: bool) -> None:
            super().__init__()
            self.weight, self.bias = nn.Parameter(torch.rand(channels) + 0.5), nn.Parameter(torch.rand(channels))
            self.first = first

        def forward(self, x: Tensor) -> Tensor:
            if self.first:
                return F.group_norm(x, 1, self.weight, self.bias)
            return F.layer_norm(x, x.shape[-1:], self.weight, self.bias)

    class Shift(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.bias = nn.Parameter(torch.rand(()))

        def forward(self, x: Tensor) -> Tensor:
            return F.relu(x) + self.bias

    def __init__(self) -> None:
        super().__init__()
        self.a, self.up, self.fc = conv(3, 6), nn.Linear(6, 9), nn.Linear(9, 4)
        self.one, self.last, self.shift = self.Norm(6, True), self.Norm(9, False), self.Shift()

    def forward(self, x: Tensor) -> Tensor:
        x = self.shift(self.one(self.a(x))).mean((2, 3))
        return self.fc(F.relu(self.last(self.up(x))))


class Keywords(nn.Module):
    """Layers that are called by the names of their arguments."""

    groups = {"a": (6, FREE), "b": (5, FREE), "fc": (4, FROZEN)}
    params, macs = (484, 160), (27668, 8648)

    def __init__(self) -> None:
        super().__init__()
        self.a, self.norm, self.b = conv(3, 6), nn.BatchNorm2d(6), conv(6, 5, bias=False)
        self.after, self.fc = nn.BatchNorm2d(5), nn.Linear(5, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(input=self.norm(input=self.a(input=x)))
        x = F.relu(self.after(input=self.b(input=x)))
        return self.fc(input=x.mean(dim=(2, 3)))


ZOO: list[type[nn.Module]] = [
    *(Chain, Hidden, Residual, Projection, OptionA, Concat, Grouped, WholeGroups, Depthwise, Gated, GatedHalves),
    *(Strided, Rolled, Mixed, OneChannel, PerChannel, TrainOnly, Padded, Shared, Chunked, FixedHalves, Written),
    *(Upward, OneDimension, ThreeDimensions, TwoInputs, TwoOutputs, NamedOutputs, Functional, Deciding, Fixed),
    *(StackSum, HalfSum, FirstFour, Instances, Casting, Numbers, LayerNormed, GroupNormed, Shuffled, Tokens),
    *(OwnNorms, Keywords),
]


def inputs_of(net: Any) -> Shapes:
    """The shapes that a network of the zoo takes."""
    found: Shapes = getattr(net, "inputs", (INPUT,))
    return found
