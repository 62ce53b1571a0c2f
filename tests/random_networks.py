"""Networks of random blocks; what hypothesis shrinks a failure to can be printed and built again."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from hypothesis import strategies as st
from torch import Tensor, nn

from tests.zoo import conv


@dataclass(frozen=True)
class Block:
    """A way to go on from some channels, for networks built at random."""

    kind: str
    width: int


Layers = dict[str, nn.Module]
Forward = Callable[[dict[str, nn.Module], Tensor], Tensor]
KINDS: dict[str, tuple[Callable[[int, int], tuple[Layers, int]], Forward]] = {}
"""How to build a block from (channels, width) as (layers, channels that it makes), and how to run it."""


def kind(build: Callable[[int, int], tuple[Layers, int]]) -> Callable[[Forward], Forward]:
    def register(forward: Forward) -> Forward:
        KINDS[forward.__name__] = (build, forward)
        return forward

    return register


@kind(lambda n, w: ({"a": conv(n, w), "bn": nn.BatchNorm2d(w)}, w))
def plain(m: Layers, x: Tensor) -> Tensor:
    return F.relu(m["bn"](m["a"](x)))


@kind(lambda n, w: ({"a": conv(n, n + 2 * w), "bn": nn.BatchNorm2d(n + 2 * w)}, n + 2 * w))
def option_a(m: Layers, x: Tensor) -> Tensor:
    y = m["bn"](m["a"](x))
    more = (y.shape[1] - x.shape[1]) // 2
    return F.relu(y + F.pad(x, (0, 0, 0, 0, more, more)))


@kind(lambda n, w: ({"a": conv(n, w), "bn": nn.BatchNorm2d(w), "b": conv(w, n)}, n))
def residual(m: Layers, x: Tensor) -> Tensor:
    return F.relu(x + m["b"](F.relu(m["bn"](m["a"](x)))))


@kind(lambda n, w: ({"a": conv(n, w), "b": conv(n, w, 1)}, w))
def projection(m: Layers, x: Tensor) -> Tensor:
    return F.relu(m["a"](x) + m["b"](x))


@kind(lambda n, w: ({"a": conv(n, w), "b": conv(n, w + 1)}, 2 * w + 1))
def concat(m: Layers, x: Tensor) -> Tensor:
    return F.relu(torch.cat([m["b"](x), m["a"](x)], 1))


@kind(lambda n, w: ({"a": conv(n, w)}, n + 2 * w))
def dense(m: Layers, x: Tensor) -> Tensor:
    y = F.relu(m["a"](x))
    return torch.cat([x, y, y], 1)


@kind(lambda n, w: ({"a": conv(n, w), "b": conv(w, 2, 1), "c": conv(2, w, 1)}, w))
def gate(m: Layers, x: Tensor) -> Tensor:
    x = F.relu(m["a"](x))
    return x * torch.sigmoid(m["c"](F.relu(m["b"](x.mean((2, 3), keepdim=True)))))


@kind(lambda n, w: ({"a": conv(n, 2 * w), "bn": nn.BatchNorm2d(2 * w)}, w))
def glu(m: Layers, x: Tensor) -> Tensor:
    return F.glu(m["bn"](m["a"](x)), 1)


@kind(lambda n, w: ({"a": conv(n, n * (1 + w % 2), groups=n), "b": conv(n * (1 + w % 2), w, 1)}, w))
def depthwise(m: Layers, x: Tensor) -> Tensor:
    return F.relu(m["b"](F.relu(m["a"](x))))


@kind(lambda n, w: ({"a": conv(n, 2 * w), "b": conv(2 * w, 4 * w, groups=2)}, 4 * w))
def grouped(m: Layers, x: Tensor) -> Tensor:
    return F.relu(m["b"](F.relu(m["a"](x))))


@kind(lambda n, w: ({"a": conv(n, 8), "bn": nn.BatchNorm2d(4 * w), "b": conv(8, 4 * w, groups=4)}, 4 * w))
def whole_groups(m: Layers, x: Tensor) -> Tensor:
    return F.relu(m["bn"](m["b"](F.relu(m["a"](x)))))


@kind(lambda n, w: ({"a": nn.ConvTranspose2d(n, w, 3, padding=1)}, w))
def transposed(m: Layers, x: Tensor) -> Tensor:
    return F.relu(m["a"](x))


@kind(lambda n, w: ({"a": conv(n, 2 * w), "b": nn.ConvTranspose2d(2 * w, 4, 1, groups=2)}, 4))
def transposed_grouped(m: Layers, x: Tensor) -> Tensor:
    return F.relu(m["b"](F.relu(m["a"](x))))


@kind(lambda n, w: ({"a": conv(n, 2 * w), "b": conv(w, 3), "c": conv(w, 2)}, 5))
def chunked(m: Layers, x: Tensor) -> Tensor:
    left, right = F.relu(m["a"](x)).chunk(2, 1)
    return F.relu(torch.cat([m["b"](left), m["c"](right)], 1))


@kind(lambda n, w: ({"a": conv(n, 2 * w)}, w))
def strided(m: Layers, x: Tensor) -> Tensor:
    return F.relu(m["a"](x))[:, 1::2]


@kind(lambda n, w: ({"a": conv(n, w)}, w))
def rolled(m: Layers, x: Tensor) -> Tensor:
    return F.relu(m["a"](x)).roll(1, 1)


@kind(lambda n, w: ({"a": conv(n, w), "act": nn.PReLU(w)}, n + w))
def written(m: Layers, x: Tensor) -> Tensor:
    y = m["act"](m["a"](x))
    both = x.new_zeros(x.shape[0], x.shape[1] + y.shape[1], *x.shape[2:])
    both[:, : x.shape[1]] = x
    both[:, x.shape[1] :] += y
    return both


@kind(lambda n, w: ({"a": conv(n, n)}, n))
def twice(m: Layers, x: Tensor) -> Tensor:
    return F.relu(m["a"](F.relu(m["a"](x))))


class Random(nn.Module):
    """A network of blocks; its repr is all that is needed to build it again."""

    def __init__(self, blocks: list[Block]) -> None:
        super().__init__()
        self.blocks = blocks
        self.layers = nn.ModuleList()
        channels = 3
        for block in blocks:
            layers, channels = KINDS[block.kind][0](channels, block.width)
            self.layers.append(nn.ModuleDict(layers))
        self.fc = nn.Linear(channels, 4)

    def forward(self, x: Tensor) -> Tensor:
        for block, layers in zip(self.blocks, self.layers, strict=True):
            x = KINDS[block.kind][1](layers, x)  # type: ignore[arg-type]
        return self.fc(x.mean((2, 3)))

    def __repr__(self) -> str:
        return f"Random({self.blocks})"


BLOCKS = st.lists(st.builds(Block, st.sampled_from(sorted(KINDS)), st.integers(1, 4)), min_size=1, max_size=4)
