"""The checkpoints that ship with the project, each in a folder of its own."""

from pathlib import Path

BUNDLED = Path(__file__).parent


def bundled_names() -> list[str]:
    """Names of the checkpoints that are there."""
    return sorted(p.parent.name for p in BUNDLED.glob("*/config.json"))
