"""Garbage collections while a command starts."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def without_collections() -> Iterator[None]:
    """Collect no garbage in the block, and never walk what it has made.

    Modules, models and the application live to the end. While they are imported and built,
    collections would walk them again and again, and later ones would stop all threads for a tenth
    of a second each.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()
