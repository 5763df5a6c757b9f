"""Scores: /v1/score, the log-probabilities of an echoed prompt, and what they do to neighbours."""

from __future__ import annotations

import asyncio
import json
import socket
import statistics
import time

import pytest
import torch

from models.checkpoints.load import find_checkpoint, load_checkpoint
from models.families.llada import LLaDA
from sampler import make_params
from sampler.likelihood.monte_carlo import ScoreParams, sample_nats
from sampler.noise_kernel import NoiseKernel
from server.engine.events import Done, GenerationRequest
from server.engine.scheduler import QueueFull
from server.engine.score_request import Score, ScoreRequest
from server.engine.turns import TaskFailed
from tests.support.effort import count
from tests.support.http import call, events, post
from tests.support.serving import make_engine, run_server, settings_of

STORY = "Once upon a time there was a little girl named Lily."
SHUFFLED = "Lily little a time there named upon was girl a Once."


def score(served, **body):
    response, text = call(served, "POST", "/v1/score", body)
    return response.status, json.loads(text)


@pytest.fixture(scope="module")
def stories():
    yield from run_server(make_engine(load_checkpoint(find_checkpoint("stories"))), settings_of())


def test_a_score_is_the_samplers_own(served, tiny):
    status, found = score(served, text=STORY, samples=20, seed=4, mixing_ratio=0.3)
    assert status == 200 and found["object"] == "score" and found["model"] == "tiny"
    ids = tiny.tokenizer.encode(STORY)
    where = torch.arange(1, len(ids))
    kernel = NoiseKernel(0.3, tiny.info.vocab_size, tiny.info.mask_id)
    params = ScoreParams("nelbo", 20, 0.3, seed=4)
    samples = torch.arange(20)
    nats = sample_nats(tiny.model, torch.tensor(ids), where, samples, kernel, params)
    assert [t["nats"] for t in found["tokens"]] == pytest.approx(nats.mean(0).tolist(), rel=1e-4)
    assert [t["id"] for t in found["tokens"]] == ids[1:]
    assert "".join(t["text"] for t in found["tokens"]).strip() == STORY
    assert found["nats"] == pytest.approx(sum(t["nats"] for t in found["tokens"]))
    assert found["nats_per_token"] == pytest.approx(found["nats"] / (len(ids) - 1))
    assert found["usage"]["scored_tokens"] == len(ids) - 1
    assert found["samples"] == 20 and found["seed"] == 4 and found["estimator"] == "nelbo"


def test_the_same_seed_gives_the_same_score(served):
    one, same, other = (score(served, text=STORY, seed=seed)[1]["nats"] for seed in (1, 1, 2))
    assert one == same != other


@pytest.mark.parametrize("estimator", ["nelbo", "llada"])
def test_a_real_story_is_likelier_than_its_words_shuffled(stories, estimator):
    good, bad = (
        score(stories, text=text, samples=64, estimator=estimator, seed=0)[1]
        for text in (STORY, SHUFFLED)
    )
    apart = bad["nats"] - good["nats"]
    assert apart > 5 * (good["standard_error"] + bad["standard_error"])


def test_a_continuation_is_scored_behind_its_prompt(stories):
    behind = {"prompt": "Once upon a time there was a little girl", "samples": 64, "seed": 0}
    right, wrong = (
        score(stories, text=text, **behind)[1] for text in (" named Lily.", " Lily named.")
    )
    assert right["nats"] < wrong["nats"]
    assert right["tokens"][0]["text"] == " named"
    bare = score(stories, text="named Lily.", samples=64, seed=0)[1]
    assert right["nats_per_token"] < bare["nats_per_token"]


def test_both_estimators_agree_where_they_estimate_the_same(stories):
    """k = 0: eq. 17 and LLaDA's are bounds with the same mean. Five standard errors: 1e-6."""
    body = {"text": STORY, "samples": count(128, 512), "seed": 3}
    nelbo = score(stories, **body, mixing_ratio=0)[1]
    llada = score(stories, **body, estimator="llada")[1]
    error = (nelbo["standard_error"] ** 2 + llada["standard_error"] ** 2) ** 0.5
    assert abs(nelbo["nats"] - llada["nats"]) < 5 * error
    assert llada["standard_error"] < nelbo["nats"] / 10


def test_the_standard_error_over_http_is_the_spread_between_seeds(served):
    found = [score(served, text=STORY, samples=16, seed=seed)[1] for seed in range(count(24, 60))]
    told = statistics.mean(f["standard_error"] ** 2 for f in found) ** 0.5
    assert 0.5 < told / statistics.stdev(f["nats"] for f in found) < 2
    assert score(served, text=STORY, samples=1)[1]["standard_error"] is None


def test_ids_are_scored_as_given_and_the_end_on_request(served, tiny):
    ids = tiny.tokenizer.encode(STORY)
    as_text, as_ids = (score(served, text=t, seed=5)[1] for t in (STORY, ids))
    assert as_text["tokens"] == as_ids["tokens"]
    without = score(served, text=ids[1:], seed=5)[1]
    assert [t["id"] for t in without["tokens"]] == ids[1:]
    assert without["usage"]["prompt_tokens"] == 0
    ended = score(served, text=STORY, end=True)[1]["tokens"]
    assert [t["id"] for t in ended] == [*ids[1:], tiny.info.eos_id]


@pytest.mark.parametrize(
    "wrong, field",
    [
        ({"text": ""}, "text"),
        ({"text": []}, "text"),
        ({"text": [5, 100_000]}, "text"),
        ({"text": [5, 2]}, "text"),
        ({"text": STORY, "prompt": [-1]}, "prompt"),
        ({"text": "\ud800"}, "text"),
        ({"text": STORY, "samples": 0}, "samples"),
        ({"text": STORY, "samples": 1025}, "samples"),
        ({"text": STORY, "mixing_ratio": 1.1}, "mixing_ratio"),
        ({"text": STORY, "mixing_ratio": 0.1, "estimator": "llada"}, "mixing_ratio"),
        ({"text": STORY, "estimator": "elbo"}, "estimator"),
        ({"text": STORY, "seed": 2**63}, "seed"),
        ({"text": "a " * 600}, "text"),
        ({"text": STORY, "sample": 3}, "sample"),
        ({"prompt": STORY}, "text"),
    ],
)
def test_what_cannot_be_scored_is_refused_by_name(served, tiny, wrong, field):
    if wrong["text" if "text" in wrong else "prompt"] == [5, 2]:
        wrong = {"text": [5, tiny.info.mask_id]}
    status, answer = score(served, **wrong)
    assert status == 400 and answer["error"]["param"] == field


def test_echo_tells_the_prompts_contributions(served, tiny):
    body = {"prompt": STORY, "max_tokens": 5, "steps": 3, "seed": 9, "echo": True, "logprobs": 2}
    choice = post(served, **body, samples=20)[1]["choices"][0]
    told = choice["logprobs"]
    contributions = [t["nats"] for t in score(served, text=STORY, samples=20, seed=9)[1]["tokens"]]
    count = len(contributions)
    assert told["prompt_samples"] == 20
    assert told["token_logprobs"][:count] == pytest.approx([-n for n in contributions])
    assert all(value <= 0 for value in told["token_logprobs"])
    assert told["steps"][:count] == [None] * count and None not in told["steps"][count:]
    assert all(
        told["top_logprobs"][i] == {told["tokens"][i]: told["token_logprobs"][i]}
        for i in range(count)
    )
    assert "".join(told["tokens"][:count]) == STORY
    # a stream tells the same
    response, text = call(
        served, "POST", "/v1/completions", {**body, "samples": 20, "stream": True}
    )
    first = json.loads(events(text.decode())[0])["choices"][0]
    assert response.status == 200 and first["text"] == STORY
    assert first["logprobs"]["token_logprobs"] == told["token_logprobs"][:count]
    assert first["logprobs"]["prompt_samples"] == 20


def test_prompts_of_ids_are_told_one_by_one(served, tiny):
    """As lm-eval expects: one entry for each id, and one for the token that was written."""
    ids = tiny.tokenizer.encode(STORY)
    prompts = [ids, ids[1:8], ids[3:5]]
    body = {"max_tokens": 1, "logprobs": 1, "echo": True, "temperature": 0, "seed": 1234}
    status, answer = post(served, prompt=prompts, **body)
    assert status == 200
    for prompt, choice in zip(prompts, answer["choices"], strict=True):
        told = choice["logprobs"]
        for name in ("tokens", "token_logprobs", "top_logprobs", "text_offset"):
            assert len(told[name]) == len(prompt) + 1
        values = told["token_logprobs"][:-1]
        assert all(v is None for v in values) if len(prompt) == 0 else values[-1] <= 0
    assert answer["choices"][0]["logprobs"]["token_logprobs"][0] is None  # the start token
    assert answer["choices"][1]["logprobs"]["token_logprobs"][0] <= 0


def test_a_prompt_is_scored_once_for_all_its_choices(served):
    before = served.engine.metrics.registry.get_sample_value("xdlm_scores_total")
    body = {"prompt": [STORY, "Tom"], "max_tokens": 2, "steps": 2, "echo": True, "logprobs": 0}
    answer = post(served, **body, n=3)[1]
    after = served.engine.metrics.registry.get_sample_value("xdlm_scores_total")
    assert after - before == 2
    told = [c["logprobs"]["token_logprobs"] for c in answer["choices"]]
    assert told[0][:10] == told[1][:10] == told[2][:10]


def test_an_echo_alone_costs_no_scores(served):
    before = served.engine.metrics.registry.get_sample_value("xdlm_scores_total")
    assert post(served, prompt=STORY, max_tokens=0, echo=True)[1]["choices"][0]["text"] == STORY
    assert served.engine.metrics.registry.get_sample_value("xdlm_scores_total") == before
    status, answer = post(served, prompt=STORY, max_tokens=1, samples=3)
    assert status == 400 and answer["error"]["param"] == "samples"


# The engine ---------------------------------------------------------------------------------------


def wanted(tiny, samples=64, **params) -> ScoreRequest:
    ids = tiny.tokenizer.encode(STORY)
    return ScoreRequest(ids, list(range(1, len(ids))), ScoreParams(samples=samples, **params))


@pytest.fixture
async def engine(tiny):
    engine = make_engine(tiny, max_waiting=4, score_positions=64)
    engine.start()
    yield engine
    engine.stop()


async def test_scores_and_texts_share_the_engine_and_change_nothing(engine, tiny):
    alone = await engine.score(wanted(tiny))
    request = GenerationRequest.continuing([0], 40, make_params(steps=20, seed=3))

    async def text():
        return [e async for e in engine.submit(request)][-1]

    quiet = await text()
    beside, other, together = await asyncio.gather(
        engine.score(wanted(tiny)), engine.score(wanted(tiny, seed=8)), text()
    )
    assert isinstance(quiet, Done) and isinstance(together, Done)
    assert beside == alone and isinstance(other, Score) and other != alone
    assert together.tokens == quiet.tokens


async def test_a_cancelled_score_spends_no_more_passes(engine, tiny):
    long = engine.score(wanted(tiny, samples=60_000))
    await asyncio.sleep(0.1)
    assert engine.scorer.waiting
    long.cancel()
    began = time.monotonic()
    while engine.scorer.waiting:
        await asyncio.sleep(0.005)
    assert time.monotonic() - began < 1.0


async def test_a_short_score_is_not_stuck_behind_a_long_one(engine, tiny):
    long = engine.score(wanted(tiny, samples=60_000))
    await asyncio.wait_for(engine.score(wanted(tiny, samples=8)), 10)
    assert not long.done()
    long.cancel()


async def test_too_many_scores_are_refused_at_once(engine, tiny):
    under_way = [engine.score(wanted(tiny, samples=60_000)) for _ in range(4)]
    with pytest.raises(QueueFull):
        engine.score(wanted(tiny))
    for future in under_way:
        future.cancel()


async def test_stopping_fails_what_is_left(tiny):
    engine = make_engine(tiny, score_positions=64)
    engine.start()
    future = engine.score(wanted(tiny, samples=60_000))
    await asyncio.sleep(0.05)
    engine.stop()
    with pytest.raises(TaskFailed) as error:
        await future
    assert error.value.failed.code == "shutting_down"


async def test_numbers_that_are_not_fail_the_score_alone(tiny_folder):
    broken = load_checkpoint(tiny_folder)
    assert isinstance(broken.model, LLaDA)
    with torch.no_grad():
        broken.model.get_parameter("model.transformer.wte.weight")[305] = torch.nan
    engine = make_engine(broken)
    engine.start()
    try:
        sick = ScoreRequest([0, 305, 9], [2], ScoreParams(samples=4))
        with pytest.raises(TaskFailed) as error:
            await engine.score(sick)
        assert error.value.failed.code == "not_finite"
        well = ScoreRequest([0, 304, 9], [2], ScoreParams("llada", samples=4))
        assert isinstance(await engine.score(well), Score)
    finally:
        engine.stop()


def test_a_client_that_hangs_up_stops_its_score(served):
    body = json.dumps({"text": STORY, "samples": 1024}).encode()
    head = f"POST /v1/score HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n"
    with socket.create_connection(("127.0.0.1", served.port)) as client:
        client.sendall(f"{head}Content-Type: application/json\r\n\r\n".encode() + body)
        until(lambda: served.engine.scorer.waiting)
    until(lambda: not served.engine.scorer.waiting)
    assert score(served, text=STORY)[0] == 200


def until(true) -> None:
    began = time.monotonic()
    while not true():
        assert time.monotonic() - began < 10
        time.sleep(0.001)
