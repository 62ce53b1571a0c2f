"""Randomness as a function, not a stream: what is drawn depends on (seed, what for, position) alone."""

from __future__ import annotations

import hashlib
import random

import numpy
import torch


def seed_of(seed: int, purpose: str, *position: int) -> int:
    """A seed for one purpose at one position, independent of all others."""
    text = ":".join([str(seed), purpose, *map(str, position)])
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1


def generator(seed: int, purpose: str, *position: int) -> torch.Generator:
    """A CPU generator with the seed of :func:`seed_of`."""
    return torch.Generator().manual_seed(seed_of(seed, purpose, *position))


def seed_generators(seed: int) -> None:
    """Seed all global generators from which a network may draw."""
    torch.manual_seed(seed)
    random.seed(seed)
    numpy.random.seed(seed % 2**32)
