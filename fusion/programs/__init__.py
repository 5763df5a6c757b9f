"""The kernels in Triton's language. This package is imported where Triton is installed alone.

Names in capitals are constants of a compilation; ranges are powers of two, so entries past a size
are masked.
"""

from fusion.programs.layers import add_modulate, add_norm, rope, swiglu
from fusion.programs.packing import marked, places, uniforms
from fusion.programs.rows import read_rows

__all__ = [
    "add_modulate",
    "add_norm",
    "marked",
    "places",
    "read_rows",
    "rope",
    "swiglu",
    "uniforms",
]
