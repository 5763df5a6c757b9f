"""``python -m server`` is the ``xdlm`` command."""

from server.cli import main

main()
