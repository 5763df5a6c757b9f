"""Entry point of ``xdlm-loadtest``. If packages of the extra ``loadtest`` are missing, it prints
the command that installs them; otherwise it runs ``commands.py``.
"""

from __future__ import annotations

import sys
from importlib.util import find_spec

EXTRA = ("aiohttp", "locust", "matplotlib", "scipy", "sklearn")


def main() -> None:
    """Entry point of the console script."""
    if missing := [name for name in EXTRA if find_spec(name) is None]:
        command = f"{sys.executable} -m pip install -c constraints/loadtest.txt -e '.[loadtest]'"
        print(f"xdlm-loadtest needs {', '.join(missing)}: {command}", file=sys.stderr)
        raise SystemExit(2)
    from loadtest.commands import app

    app()


if __name__ == "__main__":
    main()
