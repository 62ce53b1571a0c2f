"""What a data set is: two parts, how many classes they have, how their pixels are normalised."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from greg_compress.sources.normalization import Normalization
from greg_compress.sources.samples import Samples

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Dataset:
    """A data set. A folder of photographs fits itself to the network's input; see :meth:`at`."""

    name: str
    classes: int | None
    """None if it does not say."""
    train: Samples
    test: Samples
    normalization: Normalization
    input_shape: Shape | None
    """(C, H, W); None while images of any size can be made."""
    fitted: Callable[[Shape], tuple[Samples, Samples, Normalization]] | None = None
    """For those of any size: training and test images of a shape, and their normalisation."""

    def at(self, input_shape: Shape) -> Dataset:
        """The data set with images of a shape, if it can make them; else as it is."""
        if self.fitted is None:
            return self
        train, test, normalization = self.fitted(input_shape)
        return replace(self, train=train, test=test, normalization=normalization, input_shape=input_shape, fitted=None)
