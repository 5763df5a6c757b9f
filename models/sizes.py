"""Sizes in words."""

from __future__ import annotations


def bytes_text(count: float) -> str:
    """A number of bytes in decimal units, as disks and hubs count them."""
    for unit in ("B", "kB", "MB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.2f} GB"
