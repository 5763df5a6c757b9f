"""``xdlm pull``, ``list`` and ``rm``: checkpoints of a hub, kept in the cache."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from models.bundled import bundled_names
from models.errors import CheckpointError
from models.hub.names import HubName, hub_name
from models.printable import printable
from models.sizes import bytes_text
from server.cli.common import inspected, place_of, stop


def pull(
    names: Annotated[list[str], typer.Argument(help="ORG/NAME or ORG/NAME@REVISION on the hub")],
) -> None:
    """Download checkpoints from a hub into the cache, and check their hashes.

    An interrupted download goes on where it stopped. HF_TOKEN, HF_ENDPOINT, HF_HOME and
    HF_HUB_OFFLINE have their usual meaning. Code of a repository is never downloaded.
    """
    for name in names:
        _of_a_hub(name)
        info = inspected(name).info
        place = place_of(name)
        facts = f"{info.family}, {info.parameters:,} parameters, {info.dtype}"
        print(f"{printable(name)}: {facts}; in {printable(str(place))}")


def list_cached(
    as_json: Annotated[bool, typer.Option("--json", help="JSON on stdout")] = False,
) -> None:
    """List the bundled checkpoints, and those that have been downloaded."""
    from models.hub.cache import cached_checkpoints

    found = cached_checkpoints()
    if as_json:
        print(json.dumps({"bundled": bundled_names(), "cached": [e.as_record() for e in found]}))
        return
    for name in bundled_names():
        print(f"{name}  bundled")
    for each in found:
        refs = ", ".join(each.refs) or "no branch"
        state = "" if each.complete else "  incomplete"
        line = f"{each.repository}  {each.commit[:12]} ({refs})  {bytes_text(each.size)}{state}"
        print(printable(line))


def remove(
    name: Annotated[str, typer.Argument(help="ORG/NAME: all that is cached of it; or @REVISION")],
) -> None:
    """Delete a downloaded checkpoint from the cache, which other programs may use too."""
    from models.hub.cache import removed

    try:
        freed = removed(_of_a_hub(name), whole="@" not in name)
    except CheckpointError as error:
        stop(str(error))
    print(f"{printable(name)}: {bytes_text(freed)} freed")


def _of_a_hub(text: str) -> HubName:
    """The hub's name that was given."""
    name = hub_name(text)
    if name is None:
        stop(f"{text!r} is not the name of a repository on a hub: ORG/NAME or ORG/NAME@REVISION", 2)
    return name
