"""Figures in words, and words that only show."""

from __future__ import annotations


def percent(value: float) -> str:
    return f"{value:.2f}%"


def size(count: int) -> str:
    """Bytes in words, binary units."""
    if count < 1024:
        return f"{count} B"
    power = min(3, (count.bit_length() - 1) // 10)
    return f"{count / 1024**power:.1f} {('B', 'KiB', 'MiB', 'GiB')[power]}"


def short(count: int) -> str:
    """A count in three digits and a decimal unit, for tables: 2.36M."""
    for unit, scale in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if count >= scale:
            return f"{count / scale:.3g}{unit}" if count < 999.5 * scale else f"{count / scale:.0f}{unit}"
    return str(count)


def clock(seconds: float) -> str:
    """h:mm:ss, or m:ss."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def printable(text: str) -> str:
    """Text that only shows: files and networks may be named as their author likes, with commands to a terminal, letters
    that turn those after them around, or bytes that are no letters at all."""
    return "".join(letter if letter.isprintable() else "?" for letter in text)
