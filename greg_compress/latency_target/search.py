"""Widths that keep the most within a time."""

from __future__ import annotations

from collections.abc import Sequence

import numpy

from greg_compress.latency_target.layers import Integers
from greg_compress.latency_target.predict import Prediction
from greg_compress.latency_target.surface import Floats

SWEEPS, HALVINGS = 8, 40


class Search:
    """Kept units of each group that are worth the most in a given time.

    With a price on time each group in turn takes the width that is worth most of what it costs, the others being as
    they are, until none moves; the price is found by bisection (Lagrange), and what time is left over is spent on
    single steps.
    """

    def __init__(self, prediction: Prediction, counts: Sequence[Integers], worth: Sequence[Floats]) -> None:
        """`counts` are the numbers of units that a group may keep, ascending, `worth` that of each of them."""
        self._prediction, self._counts, self._worth = prediction, counts, worth

    def within(self, milliseconds: float) -> Integers:
        """Widths predicted to take no more; the narrowest there are, where even these take more."""
        least = numpy.array([counts[0] for counts in self._counts])
        if self._prediction.at(least) >= milliseconds:
            return least
        low, high = 0.0, 1e-9
        found = least
        while high < 1e12 and self._prediction.at(priced := self._priced(high)) > milliseconds:
            low, high = high, 8 * high
        for _ in range(HALVINGS):
            price = (low + high) / 2
            priced = self._priced(price)
            if self._prediction.at(priced) <= milliseconds:
                high, found = price, priced
            else:
                low = price
        return self._filled(found, milliseconds)

    def _priced(self, price: float) -> Integers:
        kept = self._prediction.channels.copy()
        for _ in range(SWEEPS):
            before = kept.copy()
            for group, counts in enumerate(self._counts):
                gain = self._worth[group] - price * self._prediction.around(kept, group, counts)
                kept[group] = counts[int(numpy.argmax(gain))]
            if bool((kept == before).all()):
                break
        return kept

    def _filled(self, kept: Integers, milliseconds: float) -> Integers:
        """Spend what is left on the single widenings that are worth most for their time."""
        kept = kept.copy()
        left = milliseconds - float(self._prediction.at(kept))
        while True:
            best, rate = None, 0.0
            for group, counts in enumerate(self._counts):
                now = int(numpy.searchsorted(counts, kept[group]))
                if now + 1 == len(counts):
                    continue
                times = self._prediction.around(kept, group, counts[now:])
                costs = times[1:] - times[0]
                gains = self._worth[group][now + 1 :] - self._worth[group][now]
                rates = numpy.where(costs <= left, gains / costs.clip(1e-9), -1.0)
                if rates.max() > rate:
                    step = int(rates.argmax())
                    best, rate = (group, int(counts[now + 1 + step]), float(costs[step])), float(rates.max())
            if best is None:
                return kept
            kept[best[0]], left = best[1], left - best[2]
