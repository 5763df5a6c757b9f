"""When things go wrong the page says so, and goes on where it can."""

from __future__ import annotations

import json
import os
import re
import subprocess
import threading
import urllib.error
import urllib.request

import pytest
from playwright.sync_api import expect

from tests.browser.conftest import (
    Cutter,
    call_json,
    canvas_text,
    close_sharing,
    download,
    generate,
    settled,
)
from tests.support.fork_server import ForkedPopen
from tests.support.http import wait_for
from tests.support.processes import XDLM, port_of
from tests.support.serving import make_engine, run_server, settings_of

pytestmark = pytest.mark.browser

SMALL = {"max_tokens": 16, "steps": 8, "seed": 7}
LONG = {"prompt": "Once", "max_tokens": 240, "sampler": "ancestral", "steps": 4096}
"""A minute at least, and so is ``Retry-After`` then."""


def test_markup_is_text_everywhere(nasty, watch, tmp_path):
    watched = watch(nasty)
    page = watched.open()
    prompt = "<img src=x onerror=\"document.title='pwned'\"> </script><script>alert(1)</script>"
    page.locator("[name=prompt]").fill(prompt)
    page.locator("[name=suffix]").fill("</textarea><svg onload=alert(2)>")
    page.get_by_role("button", name="Compare with another setting").click()
    generate(page, 2, max_tokens=16, seed=7, steps=4)
    page.locator("body").press("End")
    assert "onerror=" in canvas_text(page) and "</script>" in canvas_text(page)
    page.locator(".tok.set").first.hover()
    expect(page.locator(".history").first).to_contain_text("pwned")
    saved = {}
    for name in ("JSON", "HTML", "PNG", "GIF"):
        saved[name] = download(page, name)
    (tmp_path / "run.json").write_bytes(saved["JSON"])
    (tmp_path / "run.html").write_bytes(saved["HTML"])
    assert saved["HTML"].count(b"<script") == 2 and saved["HTML"].count(b"</script") == 2
    other = watch(nasty).open()
    other.locator("#file").set_input_files(tmp_path / "run.json")
    expect(other.locator(".facts [data-name=latency]")).to_have_count(2)
    alone = watch(nasty, offline=True).page
    alone.goto((tmp_path / "run.html").as_uri())
    expect(alone.locator(".pane")).to_have_count(2)
    expect(alone.locator(".top .prompt")).to_have_text(prompt)
    for one in (page, other, alone):
        one.locator("body").press("End")
        assert "onerror=" in canvas_text(one)
        assert "pwned" not in one.title()
        inside = ".canvas img, .canvas script, .canvas b, .canvas svg, .history img, .top img"
        assert one.locator(inside).count() == 0
    link = watch(nasty)
    copy = link.open("#" + page.url.split("#")[1])
    settled(copy, 2)
    assert "pwned" not in copy.title()


def test_a_key_is_asked_for_and_kept_for_the_tab(loaded, watch):
    engine = make_engine(loaded["stories"])
    for locked in run_server(engine, settings_of(api_keys="open-sesame")):
        watched = watch(locked)
        page = watched.page
        page.goto(locked.url)
        dialog = page.get_by_role("dialog")
        expect(dialog).to_contain_text("asks for an API key")
        dialog.get_by_label("Key").fill("wrong")
        page.keyboard.press("Enter")
        expect(dialog).to_contain_text("does not know that key")
        dialog.get_by_label("Key").fill("open-sesame")
        dialog.get_by_role("button", name="Use it").click()
        expect(page.locator("html[data-ready]")).to_be_attached()
        generate(page, **SMALL)
        kept = page.evaluate("[JSON.stringify(localStorage), document.cookie, location.href]")
        assert "sesame" not in "".join(kept)
        watched.open()  # the same tab knows it
        watched.forgive("401")
        watched.page.close()  # it asks its server again and again


def test_a_key_that_no_header_can_carry_is_refused_in_words_and_not_kept(loaded, watch):
    engine = make_engine(loaded["stories"])
    for locked in run_server(engine, settings_of(api_keys="open-sesame")):
        watched = watch(locked)
        page = watched.page
        page.goto(locked.url)
        dialog = page.get_by_role("dialog")
        for key, at in (("clé", 3), ("open sesame", 5), ("ключ", 1), ("a\x7f", 2), ("🦊", 1)):
            dialog.get_by_label("Key").fill(key)
            expect(dialog).to_contain_text(f"position {at} ")
            page.keyboard.press("Enter")
            expect(dialog).to_be_visible()
            assert key not in dialog.inner_text()
        assert page.evaluate("sessionStorage.length") == 0
        dialog.get_by_label("Key").fill("open-sesame")
        expect(dialog).to_contain_text("asks for an API key")
        page.keyboard.press("Enter")
        expect(page.locator("html[data-ready]")).to_be_attached()
        watched.forgive("401")
        watched.page.close()  # it asks its server again and again


def test_a_kept_key_that_does_not_work_is_forgotten_and_asked_for_again(loaded, watch):
    engine = make_engine(loaded["stories"])
    for locked in run_server(engine, settings_of(api_keys="open-sesame")):
        watched = watch(locked)
        page = watched.page
        page.goto(locked.url)
        for kept, words in (("ключ", "asks for an API key"), ("gone", "does not know that key")):
            page.evaluate("key => sessionStorage.setItem('xdlm-key', key)", kept)
            page.reload()
            dialog = page.get_by_role("dialog")
            expect(dialog).to_contain_text(words)
            assert page.evaluate("sessionStorage.getItem('xdlm-key')") is None
        dialog = page.get_by_role("dialog")
        dialog.get_by_label("Key").fill("open-sesame")
        dialog.get_by_role("button", name="Use it").click()
        expect(page.locator("html[data-ready]")).to_be_attached()
        watched.forgive("401")
        watched.page.close()  # it asks its server again and again


def test_a_full_queue_is_waited_for(loaded, watch):
    engine = make_engine(loaded["stories"], max_waiting=1, max_running=1)
    for busy in run_server(engine, settings_of(max_waiting=1, max_running=1)):
        watched = watch(busy)
        page = watched.open()
        held = [Held(busy.url)]
        wait_for(lambda: engine.scheduler.running == 1)
        held.append(Held(busy.url))  # it waits
        page.locator("[name=max_tokens]").fill("24")
        page.get_by_role("button", name="Generate").click()
        expect(page.locator("#said")).to_contain_text("queue is full")
        expect(page.locator("#said")).to_contain_text(re.compile(r"Trying again in (\d|10) s"))
        for one in held:
            one.cancel()
        settled(page)
        expect(page.locator("#said")).to_be_hidden()
        watched.forgive("429")
        watched.page.close()  # it asks its server again and again


class Held:
    """A long run on a server, until it is cancelled."""

    def __init__(self, url: str) -> None:
        self.url = f"{url}/v1/diffusion/trajectories"
        headers = {"Content-Type": "application/json", "Accept": "application/x-ndjson"}
        body = json.dumps(LONG).encode()
        request = urllib.request.Request(self.url, body, headers)
        self.stream = urllib.request.urlopen(request, timeout=120)
        self.id = json.loads(self.stream.readline())["data"]["id"]
        self.reader = threading.Thread(target=self.stream.read, daemon=True)
        self.reader.start()

    def cancel(self) -> None:
        request = urllib.request.Request(f"{self.url}/{self.id}", method="DELETE")
        urllib.request.urlopen(request, timeout=120).close()


def test_a_broken_connection_is_taken_up_again(served, watch):
    relay = Cutter(served.port, cut_after=9_000)
    try:
        watched = watch(relay)
        page = watched.open()
        generate(page, max_tokens=32, steps=40, seed=7, mixing_ratio=0.5)
        page.locator("body").press("End")
        assert relay.cuts == 1 and len(relay.resumed) == 1
        body = {"prompt": "Once upon a time", "max_tokens": 32, "steps": 40, "seed": 7}
        text = call_json(served, "/v1/completions", {**body, "mixing_ratio": 0.5})
        shown = canvas_text(page).replace("▸", "").replace("↵", "").strip()
        assert shown.startswith(f"Once upon a time{text['choices'][0]['text']}".rstrip())
        watched.forgive("ERR_INCOMPLETE_CHUNKED_ENCODING")
    finally:
        relay.close()


def test_stopping_and_failing_are_said(served, watch):
    page = watch(served).open()
    page.locator("[name=max_tokens]").fill("240")
    page.locator("[name=steps]").fill("4096")
    page.get_by_role("button", name="Generate").click()
    expect(page.locator(".pane .tok").first).to_be_visible()
    page.get_by_role("button", name="Stop").click()
    note = page.locator(".note")
    expect(note).to_have_text(re.compile(r"^Stopped at step \d+ of 4096\.$"))
    expect(note).not_to_have_class(re.compile("bad"))  # nothing has failed
    expect(page.locator("html:not([data-busy])")).to_be_attached()
    expect(page.locator("#said")).to_be_hidden()


def test_a_refusal_points_at_its_field(served, watch):
    watched = watch(served)
    page = watched.open()
    page.locator("[name=prompt]").fill("word " * 400)
    page.get_by_role("button", name="Generate").click()
    expect(page.locator("[data-field=prompt] + .why")).to_contain_text("256")
    expect(page.locator("#said")).to_be_hidden()  # one message, at the field
    prompt = page.locator("[name=prompt]")
    expect(prompt).to_have_attribute("aria-invalid", "true")
    expect(prompt).to_have_accessible_description(re.compile("256"))
    watched.forgive("400")
    with pytest.raises(urllib.error.HTTPError):
        call_json(served, "/v1/completions", {"prompt": "word " * 400})


def test_a_refused_run_keeps_the_last_good_one(served, watch):
    watched = watch(served)
    page = watched.open()
    generate(page, **SMALL)
    page.locator("body").press("End")
    text = canvas_text(page)
    page.locator("[name=prompt]").fill("word " * 400)
    page.get_by_role("button", name="Generate").click()
    expect(page.locator(".why")).to_be_visible()
    assert canvas_text(page) == text
    assert page.locator(".bad:visible").count() == 1  # one message
    page.locator("[name=prompt]").fill("Once upon a time")
    expect(page.locator(".why")).to_have_count(0)
    generate(page, **{**SMALL, "seed": 8})
    watched.forgive("400")


def test_an_old_error_goes_when_the_next_export_succeeds(served, watch, tmp_path):
    page = watch(served).open()
    generate(page, **SMALL)
    (tmp_path / "bad.json").write_text("{}")
    page.locator("#file").set_input_files(tmp_path / "bad.json")
    expect(page.locator("#said")).to_contain_text("cannot be shown")
    download(page, "GIF")
    expect(page.locator("#sharing .said")).to_be_hidden()
    close_sharing(page)
    expect(page.locator("#said")).to_be_hidden()


def test_a_dialog_that_is_cancelled_opens_again_when_it_is_needed(loaded, watch):
    engine = make_engine(loaded["stories"])
    for locked in run_server(engine, settings_of(api_keys="open-sesame")):
        watched = watch(locked)
        page = watched.page
        page.goto(locked.url)
        dialog = page.get_by_role("dialog")
        dialog.get_by_role("button", name="Cancel").click()
        expect(page.locator("#said")).to_contain_text("key")
        page.get_by_role("button", name="A story in 32 steps").click()
        expect(dialog).to_be_visible()
        page.keyboard.press("Escape")
        expect(dialog).to_be_hidden()
        page.get_by_role("button", name="A story in 32 steps").click()
        dialog.get_by_label("Key").fill("open-sesame")
        page.keyboard.press("Enter")
        settled(page)
        watched.forgive("401")
        watched.page.close()  # it asks its server again and again


def test_a_seed_of_64_bits_keeps_all_its_digits(served, watch):
    page = watch(served).open()
    seed = 2**63 - 25  # as a double it would be 2^63
    generate(page, **{**SMALL, "seed": seed})
    page.locator("body").press("End")
    body = {"prompt": "Once upon a time", **SMALL, "seed": seed}
    text = call_json(served, "/v1/completions", body)["choices"][0]["text"]
    assert canvas_text(page).strip() == f"Once upon a time{text}".strip()
    created = json.loads(download(page, "JSON"))["events"][0]["data"]
    assert created["seed"] == created["request"]["seed"] == seed
    page.get_by_role("button", name="Link").click()
    expect(page.locator("#sharing .said")).to_contain_text("link")
    copy = watch(served).open("#" + page.url.split("#")[1])
    settled(copy)
    assert copy.locator("[name=seed]").input_value() == str(seed)
    copy.locator("body").press("End")
    assert canvas_text(copy) == canvas_text(page)


class Process:
    """``xdlm serve`` in a process of its own."""

    def __init__(self, port: int = 0) -> None:
        command = [XDLM, "serve", "stories", "--port", str(port)]
        self.popen = ForkedPopen(command, stdout=subprocess.PIPE, text=True, env=dict(os.environ))
        self.port = port_of(self.popen)
        self.url = f"http://127.0.0.1:{self.port}"

    def kill(self) -> None:
        self.popen.kill()
        self.popen.communicate()


def test_a_page_outlives_its_server(watch):
    server = Process()
    url = server.url
    watched = watch(server)
    page = watched.page
    for _ in range(2):
        wait_for(lambda: ready(url))
        if page.url == "about:blank":
            watched.open()
        else:
            expect(page.locator("#said")).to_have_text("The server is back.")
        generate(page, **SMALL)
        page.locator("body").press("End")
        text = canvas_text(page)
        server.kill()
        page.get_by_role("button", name="Generate").click()
        expect(page.locator("#said")).to_contain_text("The server does not answer")
        assert canvas_text(page) == text
        server = Process(server.port)
    wait_for(lambda: ready(url))
    expect(page.locator("#said")).to_have_text("The server is back.")
    page.locator("[name=max_tokens]").fill("240")
    page.locator("[name=steps]").fill("4096")
    page.get_by_role("button", name="Generate").click()
    expect(page.locator("[data-name=step] dd")).to_have_text(re.compile(r"^[1-9]\d* / 4096$"))
    server.kill()  # in the middle of a run
    expect(page.locator(".note")).to_contain_text("The server does not answer; trying again")
    server = Process(server.port)
    expect(page.locator(".note")).to_contain_text("this run is lost")
    expect(page.locator("html:not([data-busy])")).to_be_attached()
    server.kill()
    watched.forgive("Failed to load resource", "ERR_INCOMPLETE_CHUNKED_ENCODING")


def ready(url: str) -> bool:
    try:
        return urllib.request.urlopen(f"{url}/ready", timeout=5).status == 200
    except (urllib.error.URLError, ConnectionError):
        return False
