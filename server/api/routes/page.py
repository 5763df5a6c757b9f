"""GET /: the trajectory page, its files, and the template of exported pages."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fastapi import APIRouter, Request, Response

WEB = Path(__file__).parents[2] / "web"
PREFIX = "/page/"
KINDS = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
    ".json": "application/json",
}
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
OFFLINE = (
    "default-src 'none'; script-src 'sha256-{script}'; style-src 'sha256-{style}'; "
    "img-src data: blob:; base-uri 'none'; form-action 'none'"
)
SECURITY = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",  # kept, but asked for again: a new build shows at once
}
IMPORT = re.compile(r'^import \{([^}]*)\} from "\./([\w-]+\.js)";\n', re.MULTILINE)
EXPORT = re.compile(r"^export ", re.MULTILINE)


@dataclass(frozen=True)
class Asset:
    """A static file."""

    body: bytes
    kind: str

    @property
    def tag(self) -> str:
        """Its ``ETag``."""
        return f'"{hashlib.sha256(self.body).hexdigest()[:32]}"'


def assets(folder: Path = WEB) -> dict[str, Asset]:
    """All files of the page, by path."""
    found = {
        PREFIX + path.name: Asset(path.read_bytes(), KINDS[path.suffix])
        for path in sorted(folder.iterdir())
        if path.suffix in KINDS and path.name != "package.json"  # of node, for the tests
    }
    found["/"] = found.pop(PREFIX + "index.html")
    template = player(folder).encode()
    found[PREFIX + "player.html"] = Asset(template, KINDS[".html"])
    return found


def player(folder: Path = WEB) -> str:
    """The template of exported pages: one file that loads nothing else."""
    script, style = bundled(folder, "offline.js"), (folder / "style.css").read_text("utf-8")
    if "</" in script + style:
        raise ValueError("an exported page cannot hold </ in its script or style")
    policy = OFFLINE.format(script=_digest(script), style=_digest(style))
    page = (folder / "player.html").read_text("utf-8")
    for name, text in (("policy", policy), ("style", style), ("script", script)):
        page = page.replace(f"{{{name}}}", text, 1)
    return page


def bundled(folder: Path, entry: str) -> str:
    """A module and its imports in one text, dependencies first.

    Modules import by name without renaming, and their top-level names differ.
    """
    written: dict[str, str] = {}

    def write(name: str) -> None:
        if name in written:
            return
        source = (folder / name).read_text("utf-8")
        written[name] = ""  # a circle of imports would end here
        for found in IMPORT.finditer(source):
            write(found[2])
        del written[name]
        written[name] = EXPORT.sub("", IMPORT.sub("", source))

    write(entry)
    return "\n".join(written.values())


def _digest(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def router_of(files: Mapping[str, Asset]) -> APIRouter:
    """Routes that send files, each at its path."""
    router = APIRouter(include_in_schema=False)
    for path, asset in files.items():
        router.add_api_route(path, _sender(asset), methods=["GET", "HEAD"], name=path)
    return router


def _sender(asset: Asset) -> Callable[[Request], Coroutine[Any, Any, Response]]:
    headers = {**SECURITY, "ETag": asset.tag, "Content-Type": asset.kind}

    async def send(request: Request) -> Response:
        known = request.headers.get("if-none-match", "")
        if asset.tag in (tag.strip().removeprefix("W/") for tag in known.split(",")):
            return Response(status_code=304, headers=headers)
        return Response(asset.body, headers=headers)

    return send
