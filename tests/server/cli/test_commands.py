"""The ``xdlm`` command as a person runs it."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import time
import urllib.request
from importlib.metadata import version

import numpy as np
import pytest
from PIL import Image
from safetensors.torch import save_file

from models.checkpoints.random_init import write_random
from models.registry import FAMILIES
from server.engine.request_params import ANY_KIND
from server.trajectories.sheet import MASKED
from tests.support.effort import THOROUGH, count
from tests.support.fp8 import LAYOUTS, quantise
from tests.support.processes import XDLM, xdlm


def test_version_is_that_of_the_installed_package_and_imports_no_torch():
    """By the entry point of the console script, in a process of its own."""
    code = "import sys, server.cli; server.cli.main(); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code, "--version"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"xdlm-serve {version('xdlm-serve')}\nFalse\n" and not done.stderr


def test_version_is_an_option_among_others():
    done = xdlm("--version", "serve")
    assert done.returncode == 0 and done.stdout == f"xdlm-serve {version('xdlm-serve')}\n"


def test_generate_is_seeded_text(tmp_path):
    args = ("generate", "Once upon a time", "--max-tokens", "40", "--steps", "8", "--seed", "3")
    first, second = xdlm(*args, cwd=tmp_path), xdlm(*args)
    assert first.returncode == 0, first.stderr
    assert first.stdout.startswith("Once upon a time") and first.stdout == second.stdout
    line = r"\d+ tokens, 8 steps, \d+ network evaluations, \d+\.\d\d s\n"
    assert re.fullmatch(line, first.stderr), first.stderr


def test_generate_json_lines_replay():
    args = ("generate", "Tom", "--max-tokens", "64", "--seed", "1", "--sampler", "ancestral")
    args = (*args, "--watch", "--json")
    *steps, last = (json.loads(line) for line in xdlm(*args).stdout.splitlines())
    canvas = list(steps[0]["snapshot"]["ids"])
    kinds = set()
    for step in steps[1:]:
        for change in step["changes"]:
            canvas[change["pos"]] = change["id"]
            kinds.add(change["op"])
    assert kinds == {"unmask", "refine", "remask"}
    assert last["usage"]["steps"] == 32 and last["finish_reason"] in ("stop", "length")
    texts = {s["snapshot"]["ids"][0] for s in steps if "snapshot" in s}
    assert texts == {0}


def test_score_says_how_likely_a_text_is():
    args = ("score", " named Lily.", "--prompt", "There was a little girl", "--seed", "2")
    args += ("--samples", str(samples)) if (samples := count(16, 128)) < 128 else ()
    told = xdlm(*args)
    assert re.match(r"\d+\.\d\d ± \d+\.\d\d nats", told.stdout), told.stderr
    record = json.loads(xdlm(*args, "--json").stdout)
    assert f"{record['nats']:.2f}" in told.stdout and record["samples"] == samples
    assert [t["text"] for t in record["tokens"]][:3] == [" named", " L", "ily"]
    wrong = xdlm("score", "Tom", "--estimator", "guess")
    assert wrong.returncode == 2 and "estimator must be one of nelbo, llada" in wrong.stderr


def test_watch_draws_without_a_terminal(tmp_path):
    done = xdlm(
        *("generate", "Tom", "--max-tokens", "20", "--steps", "4", "--seed", "1"),
        *("--watch", "--delay", "0", "--svg", str(tmp_path / "run.svg")),
    )
    assert done.returncode == 0, done.stderr
    assert "step   4/4" in done.stdout
    picture = (tmp_path / "run.svg").read_text()
    assert picture.startswith("<svg") and "url(http" not in picture


def test_peers_of_the_paper_from_the_command_line():
    text = ("generate", "Tom", "--max-tokens", "20", "--steps", "6", "--seed", "1", "--json")
    gidd = ("--sampler", "gidd", "--p-uniform", "0.2")
    loop = ("--sampler", "remdm", "--remdm-schedule", "loop", "--remdm-eta", "0.1")
    window = ("--remdm-t-on", "0.8", "--remdm-t-off", "0.3", "--remdm-alpha-on", "0.7")
    for chosen in (gidd, (*loop, *window)):
        done = xdlm(*text, *chosen)
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["tokens"] == 20
    refused = xdlm(*text, "--sampler", "remdm", *window)
    assert (
        refused.returncode == 2
        and "remdm_t_on is only supported by remdm_schedule loop; got cap" in refused.stderr
    )


@pytest.mark.slow
def test_a_text_that_ends_early_stops_early():
    """An end token in a settled block: later blocks are never denoised."""
    done = xdlm(
        *("generate", "Once upon a time", "--max-tokens", "250", "--steps", "60", "--seed", "1"),
        *("--sampler", "topk", "--mixing-ratio", "0", "--block-length", "25", "--json"),
        *("--no-confidence-eos-eot-inf", "--spacing", "0"),
    )
    answer = json.loads(done.stdout)
    assert answer["finish_reason"] == "stop"
    assert answer["usage"]["steps"] < 60
    assert answer["usage"]["steps"] >= 6 * (answer["tokens"] // 25)  # six steps a block


def test_official_runs_from_the_command_line(tmp_path, golden):
    """A folder with only ``config.json`` and ``model.safetensors``, and token ids."""
    weights, run = golden("llada_tiny_kv4"), golden("llada_gen_xdm_k01_s4")
    (tmp_path / "config.json").write_text(json.dumps(weights.meta["config"]))
    state = {k[8:]: t for k, t in weights.tensors.items() if k.startswith("weights.")}
    save_file(state, tmp_path / "model.safetensors")
    prompt = ",".join(str(i) for i in run.tensors["prompt"][0].tolist())
    done = xdlm(
        *("generate", "--checkpoint", str(tmp_path), "--prompt-ids", prompt, "--json"),
        *("--max-tokens", "16", "--steps", "4", "--sampler", "topk", "--mixing-ratio", "0.1"),
        *("--compat", "official", "--dtype", "float32", "--temperature", "0"),
    )
    assert done.returncode == 0, done.stderr
    states = run.tensors["x_traj"][:, 0].tolist()
    assert json.loads(done.stdout) == {"token_ids": states[-1][-16:], "states": states}
    refused = xdlm("generate", "--checkpoint", str(tmp_path), "a prompt")
    assert refused.returncode == 2 and "--prompt-ids" in refused.stderr


def test_info():
    facts = json.loads(xdlm("info", "stories", "--json").stdout)
    assert facts["family"] == "llada" and facts["samplers"] == ANY_KIND.samplers
    embedding = 4454 * 288  # in bfloat16, and with float8 the head as well
    eight = {"float8": 8_541_216 + 2 * embedding, "int8": 8_541_216 + embedding}
    assert facts["memory"]["weights"] == {"bfloat16": 17_082_432, "float32": 34_164_864, **eight}
    # keys and values of 6 layers, 6 heads of 48
    assert facts["memory"]["cached_position"] == {"bfloat16": 6912, "float32": 13_824}
    assert 0 < facts["memory"]["step"]["1"] < facts["memory"]["step"]["32"]


def test_info_of_a_checkpoint_in_fp8(tmp_path):
    source, narrow = tmp_path / "source", tmp_path / "narrow"
    assert "quantization" not in json.loads(xdlm("info", "stories", "--json").stdout)
    write_random(source, FAMILIES["sdar"].shapes["tiny"], family="sdar")
    quantise(source, LAYOUTS["block"], narrow, tmp_path / "plain")
    facts = json.loads(xdlm("info", str(narrow), "--json").stdout)
    assert facts["quantization"] == "fp8 (e4m3), a scale of each block of 24 x 32; fp8"
    assert facts["dtype"] == "BF16+F8_E4M3"
    assert "quantization  fp8 (e4m3), a scale" in xdlm("info", str(narrow)).stdout


def test_errors_are_one_line_and_have_exit_codes(tmp_path):
    for args, code, words in (
        (("info", "nowhere"), 1, "no checkpoint at 'nowhere'"),
        (("info", str(tmp_path)), 1, "config.json is missing"),
        (("serve", "nowhere"), 1, "no checkpoint"),
        (("serve", "--port", "99999"), 2, "port"),
        (("generate", "x", "--steps", "0"), 2, "steps must lie between"),
        (("generate", "x", "--max-tokens", "300"), 2, "--max-tokens"),
        (("generate", "x", "--dtype", "int3"), 2, "--dtype"),
    ):
        done = xdlm(*args)
        assert done.returncode == code, (args, done.stderr)
        assert words in done.stderr and "Traceback" not in done.stderr


def test_serve_prints_a_url_answers_and_stops_on_sigterm():
    server = subprocess.Popen(
        [XDLM, "serve", "stories", "--port", "0"], stdout=subprocess.PIPE, text=True
    )
    try:
        assert server.stdout is not None
        text = ""
        deadline = time.monotonic() + 60
        while "curl" not in text:
            assert time.monotonic() < deadline
            text += server.stdout.readline()
        found = re.search(r"http://127\.0\.0\.1:\d+", text)
        assert found
        facts = r"stories: 8\.5 M parameters, (float32 on cpu|bfloat16 on cuda), attention by "
        assert re.search(facts + r"[\w' -]+, steps of up to \d+ positions", text), text
        body = json.dumps({"prompt": "Once upon a time", "max_tokens": 20, "steps": 4}).encode()
        request = urllib.request.Request(
            f"{found.group()}/v1/completions", body, {"Content-Type": "application/json"}
        )
        while True:
            try:
                with urllib.request.urlopen(request, timeout=30) as response:
                    answer = json.load(response)
                break
            except ConnectionError:
                assert time.monotonic() < deadline
        assert answer["choices"][0]["text"]
        if THOROUGH:
            smoke = subprocess.run(
                [
                    XDLM.with_name("xdlm-loadtest"),
                    "smoke",
                    "--url",
                    found.group(),
                    "--seconds",
                    "4",
                ],
                capture_output=True,
                text=True,
            )
            assert smoke.returncode == 0 and " ok, 0 failed" in smoke.stdout, smoke.stderr
    finally:
        server.send_signal(signal.SIGTERM)
        assert server.wait(20) in (0, -signal.SIGTERM)
        assert server.stdout is not None
        server.stdout.close()


def test_draw_makes_a_sheet_and_a_filmstrip(tmp_path):
    made = xdlm("make-random", "pictures", "--family", "dit", "--shape", "tiny-image", cwd=tmp_path)
    assert made.returncode == 0, made.stderr
    common = ("--checkpoint", "pictures", "--steps", "4", "--scale", "2")
    sheet = xdlm("draw", "all", "sheet.png", "--count", "3", *common, cwd=tmp_path)
    assert sheet.returncode == 0, sheet.stderr
    film = xdlm(
        *("draw", "3", "film.png", "--film", "4", "--mixing-ratio", "0", *common), cwd=tmp_path
    )
    assert film.returncode == 0, film.stderr
    with Image.open(tmp_path / "sheet.png") as picture:
        assert picture.size == (2 * (3 * 13 + 1), 2 * (10 * 13 + 1))
    with Image.open(tmp_path / "film.png") as picture:
        assert picture.size == (2 * (4 * 13 + 1), 2 * 14)
        pixels = np.asarray(picture)
    assert tuple(pixels[6, 6]) == MASKED and len(set(pixels[6, 2 * 3 * 13 + 6])) == 1
    wrong = xdlm("draw", "eleven", "x.png", "--checkpoint", "pictures", cwd=tmp_path)
    assert wrong.returncode == 2 and "0 to 9" in wrong.stderr
    text = xdlm("draw", "3", "x.png", "--checkpoint", "stories", cwd=tmp_path)
    assert text.returncode == 2 and "makes no images" in text.stderr
