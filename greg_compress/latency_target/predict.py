"""What the network takes at any widths: its layers by their surfaces, and the rest in proportion to what they make."""

from __future__ import annotations

from collections.abc import Sequence

import numpy

from greg_compress.latency_target.layers import Call, Integers
from greg_compress.latency_target.surface import Floats, Surface


class Prediction:
    """Milliseconds of the network for kept units of each group.

    Activations, additions, pooling and the like are no layers; they take what the dense network takes beyond its
    layers, in proportion to the elements that layers make.
    """

    def __init__(self, calls: Sequence[Call], surfaces: Sequence[Surface], channels: Integers, dense_ms: float) -> None:
        """`channels` are the units of each group in the dense network, shape (groups,), `dense_ms` what it takes."""
        self._calls, self._surfaces = calls, surfaces
        self._touching = [
            [at for at, call in enumerate(calls) if group in call.groups] for group in range(len(channels))
        ]
        self.channels = channels
        self._scale, self._rest = 1.0, 0.0
        layers_ms = float(self.at(channels))
        # A layer among others may take less than by itself: then the rest is nothing, and all layers less.
        self._scale = min(1.0, dense_ms / max(layers_ms, 1e-9))
        elements = sum(call.made * int(call.makes.at(channels)) for call in calls)
        self._rest = max(0.0, dense_ms - layers_ms) / max(elements, 1)

    def at(self, kept: Integers) -> Floats:
        """For kept units of shape (groups, ...), milliseconds of shape (...)."""
        return self._some(range(len(self._calls)), kept)

    def around(self, kept: Integers, group: int, counts: Integers) -> Floats:
        """The part that depends on one group, for other numbers of kept units of it; shape of `counts`."""
        varied = numpy.repeat(kept[:, None], len(counts), axis=1)
        varied[group] = counts
        return self._some(self._touching[group], varied)

    def share(self, group: int) -> float:
        """What the layers that a group touches take in the dense network, in milliseconds."""
        return float(self._some(self._touching[group], self.channels))

    def _some(self, which: Sequence[int], kept: Integers) -> Floats:
        total = numpy.zeros(kept.shape[1:])
        for at in which:
            call = self._calls[at]
            makes = call.makes.at(kept)
            layer = self._surfaces[at].at(call.reads.at(kept), makes)
            total += self._scale * layer + self._rest * call.made * makes
        return total
