"""Randomness as a function, not a stream: what is drawn depends on (seed, what for, position) alone."""

from __future__ import annotations

import hashlib

import torch


def generator(seed: int, purpose: str, *position: int) -> torch.Generator:
    """A CPU generator for one purpose at one position, independent of all others."""
    text = ":".join([str(seed), purpose, *map(str, position)])
    number = int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big")
    return torch.Generator().manual_seed(number >> 1)
