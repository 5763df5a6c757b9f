"""Answers beside their text: log-probabilities, the prompt, the canvas as text."""

from __future__ import annotations

import concurrent.futures
import itertools
import json
import time

import pytest
import torch
from tokenizers import Tokenizer, decoders, pre_tokenizers
from tokenizers.models import BPE

from models.checkpoints.load import load_checkpoint
from server.engine.events import LogProbs
from server.output.logprobs import TokenLogProb, by_label
from server.output.text import MASK_SIGN
from tests.support.http import BODY, call, post
from tests.support.serving import make_engine, run_server, settings_of, write_tiny
from tests.support.text_streams import SAMPLERS, streamed


@pytest.mark.parametrize("chosen", SAMPLERS)
def test_log_probabilities_are_the_models_at_the_step_that_wrote(served, tiny, chosen):
    """Recomputed from the trajectory: the canvas before that step, through the model alone."""
    body = {**BODY, **chosen, "logprobs": 3, "temperature": 0.7, "top_p": 0.9}
    chunks = streamed(served, **body, trajectory="delta")
    records = [c["diffusion"] for c in chunks if "diffusion" in c]
    canvas = list(records[0]["snapshot"]["ids"])
    prompt = len(canvas) - 30
    expected: dict[int, tuple[int, float, dict[str, float], float]] = {}
    for record in records[1:]:
        tokens = torch.tensor(canvas)
        offsets = torch.tensor([0, len(canvas)])
        with torch.inference_mode():
            logits = tiny.model.head(tiny.model.trunk(tokens, offsets, torch.arange(len(canvas))))
            logits[:, tiny.info.mask_id] = -torch.inf
            log_p = logits.double().log_softmax(-1)
        for change in record["changes"]:
            row = log_p[change["pos"]]
            best = row.topk(3)
            pairs = zip(best.indices.tolist(), best.values.tolist(), strict=True)
            top = {tiny.tokenizer.token(i).label: p for i, p in pairs}
            entropy = float(torch.special.entr(row.exp()).sum())
            expected[change["pos"]] = (record["step"], float(row[change["id"]]), top, entropy)
            canvas[change["pos"]] = change["id"]

    answer = post(served, **body)[1]["choices"][0]
    told = answer["logprobs"]
    count = len(told["tokens"])
    assert count >= 20
    for i in range(count):
        step, log_p, top, entropy = expected[prompt + i]
        assert told["entropies"][i] == pytest.approx(entropy, abs=1e-4)
        assert told["tokens"][i] == tiny.tokenizer.token(canvas[prompt + i]).label
        assert told["steps"][i] == step
        assert told["token_logprobs"][i] == pytest.approx(max(log_p, -9999), abs=1e-4)
        assert {**top, **told["top_logprobs"][i]} == pytest.approx(
            {**told["top_logprobs"][i], **top}, abs=1e-4
        )
        assert told["top_logprobs"][i][told["tokens"][i]] == told["token_logprobs"][i]
        assert len(told["top_logprobs"][i]) in (3, 4)

    # asking changes no token, and the stream tells the same, piece by piece
    assert post(served, **{**body, "logprobs": None})[1]["choices"][0]["text"] == answer["text"]
    parts = [p for c in chunks if (p := c["choices"][0]["logprobs"])]
    for name, values in told.items():
        assert list(itertools.chain(*(part[name] for part in parts))) == values


def test_offsets_point_into_the_text(served):
    answer = post(served, **BODY, logprobs=0, echo=True)[1]["choices"][0]
    assert answer["text"].startswith(BODY["prompt"])
    told = answer["logprobs"]
    for token, offset in zip(told["tokens"], told["text_offset"], strict=True):
        if token[:6] != "bytes:" and token[:2] != "<|":
            assert answer["text"][offset:].startswith(token)


TEXTS = [
    "Café au lait",
    "日本語のテキスト",
    " two  blanks",
    "🐉",
    "<|mdm_mask|> é",
    "naïve ‘x’\u2028y",
]


@pytest.fixture(scope="module")
def by_byte(tmp_path_factory):
    """A server whose tokenizer has a piece for each byte and few others, as GPT-2's has."""
    folder = write_tiny(tmp_path_factory.mktemp("bytes") / "tiny")
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    pieces = dict.fromkeys(["<|startoftext|>", "<|endoftext|>", *letters, "Ã©", "âĢ", "Ġa"])
    made = Tokenizer(BPE({piece: i for i, piece in enumerate(pieces)}, [("Ã", "©"), ("Ġ", "a")]))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    made.add_special_tokens(["<|startoftext|>", "<|endoftext|>"])
    made.save(str(folder / "tokenizer.json"))
    yield from run_server(make_engine(load_checkpoint(folder)), settings_of())


def bytes_of(token: str) -> bytes:
    """The bytes that a completion's token stands for; a special one leaves none."""
    if token[:2] == "<|":
        return b""
    if token[:6] != "bytes:":
        return token.encode()
    return bytes(int(digits, 16) for digits in token[6:].split("\\x")[1:])


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("kind", ["served", "by_byte"])
def test_an_echoed_prompts_tokens_are_its_bytes(request, kind, text):
    served = request.getfixturevalue(kind)
    choice = post(served, prompt=text, echo=True, max_tokens=0, logprobs=0)[1]["choices"][0]
    told, offsets = choice["logprobs"]["tokens"], choice["logprobs"]["text_offset"]
    assert choice["text"] == text
    assert b"".join(map(bytes_of, told)) == text.encode()
    assert offsets == sorted(offsets)
    for token, offset in zip(told, offsets, strict=True):
        if token[:6] != "bytes:":
            assert text[offset:].startswith(token)
    _, found = call(served, "POST", "/v1/score", {"text": text, "samples": 1})
    assert b"".join(bytes_of(t["text"]) for t in json.loads(found)["tokens"]) == text.encode()
    body = {"prompt": text, "return_token_strs": True, "add_special_tokens": False}
    _, found = call(served, "POST", "/tokenize", body)
    assert b"".join(map(bytes_of, json.loads(found)["token_strs"])) == text.encode()


@pytest.mark.parametrize("kind", ["served", "by_byte"])
@pytest.mark.parametrize("prompt", ["", [5, 9], "Café"])
def test_a_written_texts_tokens_are_its_bytes(request, kind, prompt):
    served = request.getfixturevalue(kind)
    spread = {str(id_): 40 for id_ in range(2, 250)}  # single bytes, most of them
    chosen = {"sampler": "threshold", "confidence_threshold": 0.02, "stop": ["q"]}
    for seed in range(4):
        body = {**BODY, **chosen, "prompt": prompt, "seed": seed, "logit_bias": spread}
        body |= {"logprobs": 2, "ignore_eos": True}
        choice = post(served, **body)[1]["choices"][0]
        told = choice["logprobs"]
        joined = b"".join(map(bytes_of, told["tokens"]))
        if kind == "by_byte":
            assert joined.decode(errors="replace") == choice["text"]
        assert told["text_offset"] == sorted(told["text_offset"])
        for token, offset in zip(told["tokens"], told["text_offset"], strict=True):
            if token[:6] != "bytes:" and token[:2] != "<|":
                assert choice["text"][offset:].startswith(token)
        parts = [p for c in streamed(served, **body) if (p := c["choices"][0]["logprobs"])]
        for name, values in told.items():
            assert list(itertools.chain(*(part[name] for part in parts))) == values


def test_pieces_that_share_a_text_keep_their_own_log_probabilities(tiny):
    read = tiny.tokenizer
    letter, [byte] = (
        read.encode("xa", start=False)[-1],
        [i for i in range(260) if read.token(i).data == b"a" and not read.steady([i])],
    )
    assert read.token(letter).label == read.token(byte).label == "a"
    top = ((read.token(letter), -0.1), (read.token(7), -2.0))
    token = TokenLogProb(read.token(byte), 0, LogProbs(1, -9.0, ()), top)
    name = read.token(7).label
    assert by_label(token) == {f"token_id:{letter}": -0.1, name: -2.0, "a": -9.0}
    top = ((read.token(letter), -0.1), (read.token(byte), -9.0))
    token = TokenLogProb(read.token(byte), 0, LogProbs(1, -9.0, ()), top)
    assert by_label(token) == {f"token_id:{letter}": -0.1, "a": -9.0}


def test_the_end_token_is_told_where_it_ends_a_completion(served, chatty, tiny):
    end = {"logit_bias": {str(tiny.info.eos_id): 100}}
    answer = post(served, **BODY, **end, logprobs=1)[1]["choices"][0]
    assert answer["text"] == "" and answer["finish_reason"] == "stop"
    assert len(answer["logprobs"]["tokens"]) == 1
    assert answer["logprobs"]["token_logprobs"][0] == pytest.approx(0.0, abs=1e-6)
    body = {k: v for k, v in BODY.items() if k != "prompt"}
    chat = {**body, **end, "messages": [{"role": "user", "content": "Hi"}], "logprobs": True}
    _, text = call(chatty, "POST", "/v1/chat/completions", chat)
    assert json.loads(text)["choices"][0]["logprobs"] is None


def test_chat_tells_openais_objects(chatty):
    body = {k: v for k, v in BODY.items() if k != "prompt"}
    body |= {"messages": [{"role": "user", "content": "Hi"}], "logprobs": True, "top_logprobs": 2}
    _, text = call(chatty, "POST", "/v1/chat/completions", body)
    choice = json.loads(text)["choices"][0]
    entries = choice["logprobs"]["content"]
    written = b"".join(bytes(e["bytes"]) for e in entries)
    assert written.decode(errors="replace") == choice["message"]["content"]
    for entry in entries:
        assert len(entry["top_logprobs"]) == 2 and entry["logprob"] <= 0 < entry["entropy"]
        assert shown(bytes(entry["bytes"])) == entry["token"]
        best, second = (top["logprob"] for top in entry["top_logprobs"])
        assert best >= second and best >= entry["logprob"]
    chunks = streamed(chatty, "/v1/chat/completions", **body)
    parts = [p["content"] for c in chunks if (p := c["choices"][0]["logprobs"])]
    assert list(itertools.chain(*parts)) == entries


def shown(data: bytes) -> str:
    """A token of a chat answer; part of a character is told byte by byte."""
    try:
        return data.decode()
    except UnicodeDecodeError:
        return "".join(f"\\x{byte:02x}" for byte in data)


def test_bias_bans_and_forces(served, tiny):
    """Ban every token of an answer, and none of them comes back; force one, and it is all."""
    for chosen in SAMPLERS:
        body = {**BODY, **chosen, "logprobs": 0}
        plain = post(served, **body)[1]["choices"][0]
        ids = tiny.tokenizer.encode(plain["text"], start=False)
        ban = {str(i): -100 for i in ids}
        banned = post(served, **body, logit_bias=ban)[1]["choices"][0]
        noise = [s for s, p in zip(*both(banned), strict=True) if p > -50]
        assert noise and not {tiny.tokenizer.token(i).label for i in ids} & set(noise)
        forced = post(served, **body, logit_bias={str(ids[1]): 100})[1]["choices"][0]
        written = {s for s, p in zip(*both(forced), strict=True) if p > -50}
        assert written == {tiny.tokenizer.token(ids[1]).label}


def both(choice) -> tuple[list[str], list[float]]:
    return choice["logprobs"]["tokens"], choice["logprobs"]["token_logprobs"]


def test_a_bias_hurts_no_neighbour(served):
    """With and without company that has one, an answer is the same."""
    alone = post(served, **BODY)[1]["choices"]
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        others = [pool.submit(post, served, **BODY, logit_bias={"5": i}) for i in range(6)]
        mine = [pool.submit(post, served, **BODY) for _ in range(2)]
        assert all(f.result()[1]["choices"] == alone for f in mine)
        assert all(f.result()[0] == 200 for f in others)


@pytest.mark.parametrize("n", [1, 2])
def test_echo(served, n):
    plain = post(served, **BODY, n=n)[1]["choices"]
    echoed = post(served, **BODY, n=n, echo=True)[1]["choices"]
    assert [c["text"] for c in echoed] == [BODY["prompt"] + c["text"] for c in plain]
    chunks = streamed(served, **BODY, n=n, echo=True)
    for i in range(n):
        mine = [c["choices"][0] for c in chunks if c["choices"][0]["index"] == i]
        assert mine[0]["text"] == BODY["prompt"]
        assert "".join(c["text"] for c in mine) == echoed[i]["text"]
    alone = post(served, **{**BODY, "max_tokens": 0}, echo=True)
    assert alone[0] == 200 and alone[1]["choices"][0]["text"] == BODY["prompt"]
    assert alone[1]["usage"]["completion_tokens"] == 0
    assert alone[1]["usage"]["diffusion"]["forwards"] == 0


def test_diffusing_shows_the_whole_canvas_as_text(served):
    chosen = {**BODY, "sampler": "topk", "mixing_ratio": 0.0}
    whole = post(served, **chosen)[1]["choices"][0]
    chunks = streamed(served, **chosen, diffusing=True)
    shown = [c for c in chunks if "diffusion_meta" in c]
    assert [c["diffusion_meta"]["step"] for c in shown] == list(range(7))
    for c in shown:
        assert c["choices"][0]["text"].count(MASK_SIGN) == c["diffusion_meta"]["masked"]
    assert shown[0]["diffusion_meta"]["masked"] == 30
    *_, text, finish = [c["choices"][0] for c in chunks]
    assert text["text"] == whole["text"]
    assert finish["finish_reason"] == whole["finish_reason"] and finish["text"] == ""


@pytest.mark.parametrize("chosen", SAMPLERS)
def test_a_budget_is_kept(served, chosen):
    """4 000 steps would take seconds; the answer is complete, and says what was done."""
    body = {**BODY, **chosen, "steps": 4000, "latency_budget_ms": 300}
    post(served, **BODY)  # the engine has seen a step
    began = time.monotonic()
    status, answer = post(served, **body)
    took = time.monotonic() - began
    done = answer["usage"]["diffusion"]
    assert status == 200 and took < 1.0
    assert done["steps"] < 4000 and done["steps_asked"] == 4000
    if not chosen:
        assert done["steps"] > 4 and done["queue_ms"] + done["denoise_ms"] < 600
    roomy = post(served, **{**BODY, **chosen}, latency_budget_ms=60_000)[1]
    assert roomy["choices"] == post(served, **{**BODY, **chosen})[1]["choices"]
    assert "steps_asked" not in post(served, **BODY)[1]["usage"]["diffusion"]
