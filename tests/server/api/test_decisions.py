"""/v1/decisions: probabilities of closed answers, against the network's own logits."""

from __future__ import annotations

import json
import math
from itertools import pairwise

import pytest
import torch
from pydantic import TypeAdapter

from models.bundled import BUNDLED
from models.checkpoints.load import load_checkpoint
from models.checkpoints.random_init import parse_shape, write_random
from server.api.jobs.decisions import Decision, parts_of
from server.api.schemas.responses.decisions import Decisions
from tests.support.http import call, metric, raw_post, wait_for
from tests.support.serving import make_engine, run_server, settings_of

PATH = "/v1/decisions"
YES = {"type": "predicate", "instructions": "Is there a dog?", "name": "dog"}
WHICH = {
    "type": "choice",
    "instructions": "Which animal?",
    "choices": [
        {"value": "dog", "description": "it barks"},
        {"value": "a big brown bear"},
        {"value": "a big cat"},
        {"value": True},
    ],
}
HOW = {
    "type": "score",
    "instructions": "How happy?",
    "name": "mood",
    "levels": [{"label": "sad"}, {"label": "so so"}, {"label": "happy", "description": "smiles"}],
}
BODY = {"input": "Tom had a dog.", "questions": [YES, WHICH, HOW]}


def post(served, **more) -> tuple[int, dict]:
    response, text = call(served, "POST", PATH, {**BODY, **more})
    answer = json.loads(text)
    if response.status == 200:
        TypeAdapter(Decisions).validate_python(answer, strict=True)
    return response.status, answer


def log_p_of(checkpoint, tokens: list[int], rows: list[int]) -> torch.Tensor:
    """Log-probabilities of all ids at some positions of one canvas, by the network itself."""
    model, length = checkpoint.model, len(tokens)
    with torch.inference_mode():
        hidden = model.trunk(torch.tensor(tokens), torch.tensor([0, length]), torch.tensor(rows))
        logits = model.head(hidden).double()
        logits[:, checkpoint.info.mask_id] = -torch.inf
        return logits.log_softmax(-1)


def expected(checkpoint, prompt: list[int], options: list[str], steps: int) -> list[float]:
    """Probabilities of the options by enumeration: one canvas of its own for each part of each."""
    tokenizer, mask = checkpoint.tokenizer, checkpoint.info.mask_id
    ends = list(checkpoint.ends)
    ids = [tokenizer.encode_behind(option) for option in options]
    length = max(map(len, ids)) + 1
    full = [[*i, *[ends[0]] * (length - len(i))] for i in ids]

    def weight(whole: list[int], size: int, fixed: int) -> float:
        """Log-weight of the rest of an answer after its first positions."""
        masked = [*prompt, *whole[:fixed], *[mask] * (length - fixed)]
        rows = list(range(len(prompt) + fixed, len(prompt) + length))
        log_p = log_p_of(checkpoint, masked, rows)
        told = [log_p[n - fixed, whole[n]] for n in range(fixed, size)]
        padded = [log_p[n - fixed, ends].logsumexp(0) for n in range(max(fixed, size), length)]
        return float(sum([*told, *padded]))

    edges = [*parts_of(length, steps), length]
    found = []
    for k, whole in enumerate(full):
        log_p = 0.0
        for fixed, after in pairwise(edges):
            alike = [n for n, other in enumerate(full) if other[:fixed] == whole[:fixed]]
            weights = {n: math.exp(weight(full[n], len(ids[n]), fixed)) for n in alike}
            shared = [n for n in alike if full[n][:after] == whole[:after]]
            log_p += math.log(sum(weights[n] for n in shared) / sum(weights.values()))
        found.append((k, math.exp(log_p)))
    return [p for _, p in found]


@pytest.mark.parametrize("steps", [1, 2, 3, 64])
def test_probabilities_are_those_of_the_network(served, tiny, steps):
    """The checkpoint has no chat template: the prompt is the text with a cue."""
    status, answer = post(served, questions=[WHICH, YES], steps=steps, seed=3)
    assert status == 200
    told = "Tom had a dog.\n\nWhich animal?\nAnswer with one of these:\n- dog: it barks\n"
    told += "- a big brown bear\n- a big cat\n- true\nAnswer:"
    options = [" dog", " a big brown bear", " a big cat", " true"]
    wanted = expected(tiny, tiny.tokenizer.encode(told), options, steps)
    found = answer["answers"][0]
    assert [p["probability"] for p in found["probabilities"]] == pytest.approx(wanted, rel=1e-4)
    assert [p["value"] for p in found["probabilities"]] == [
        "dog",
        "a big brown bear",
        "a big cat",
        True,
    ]
    assert found["confidence"] == max(p["probability"] for p in found["probabilities"])
    prompt = tiny.tokenizer.encode("Tom had a dog.\n\nIs there a dog?\nAnswer yes or no.\nAnswer:")
    yes, _ = expected(tiny, prompt, [" yes", " no"], steps)
    assert answer["answers"][1]["probability"] == pytest.approx(yes, rel=1e-4)


def test_answers_of_all_kinds_have_their_fields(chatty):
    status, answer = post(chatty)
    assert status == 200 and answer["steps"] == 1
    dog, which, mood = answer["answers"]
    assert (dog["type"], dog["name"]) == ("predicate", "dog") and 0 < dog["probability"] < 1
    p = dog["probability"]
    assert dog["entropy"] == pytest.approx(-p * math.log(p) - (1 - p) * math.log(1 - p))
    for found in (which, mood):
        assert sum(p["probability"] for p in found["probabilities"]) == pytest.approx(1)
        assert 0 < found["entropy"] <= math.log(len(found["probabilities"])) + 1e-12
    assert which["choice"] in ["dog", "a big brown bear", "a big cat", True]
    assert [p["label"] for p in mood["probabilities"]] == ["sad", "so so", "happy"]
    levels = sum(p["value"] * p["probability"] for p in mood["probabilities"])
    assert mood["score"] == pytest.approx(levels) and mood["name"] == "mood"
    usage = answer["usage"]
    assert usage["canvases"] == 3 and usage["total_tokens"] > usage["input_tokens"]


def test_questions_do_not_change_each_other_and_nothing_is_drawn(chatty):
    _, together = post(chatty, seed=1)
    for i, question in enumerate(BODY["questions"]):
        _, alone = post(chatty, questions=[question], seed=2)
        assert alone["answers"] == [together["answers"][i]]
    parts = [{"role": "user", "content": [{"type": "input_text", "text": "Tom had a dog."}]}]
    assert post(chatty, input=parts)[1]["answers"] == together["answers"]


def test_shared_beginnings_are_read_once(served):
    """Two of four answers begin with the same tokens."""
    _, one = post(served, questions=[WHICH])
    _, two = post(served, questions=[WHICH], steps=2)
    assert one["usage"]["canvases"] == 1 and two["usage"]["canvases"] == 1 + 3


@pytest.mark.parametrize(
    ("change", "param", "words"),
    [
        ({"input": []}, "input", "input"),
        ({"input": [{"role": "assistant", "content": "x"}]}, "input", "input[0].role"),
        ({"input": "the dog ran and " * 100}, "input", "256"),
        ({"questions": []}, "questions", "questions"),
        ({"questions": [YES] * 201}, "questions", "200"),
        ({"questions": [{"type": "essay", "instructions": "x"}]}, "questions", "questions[0]"),
        ({"questions": ["x"]}, "questions", "questions[0]"),
        ({"questions": [{**YES, "instructions": ""}]}, "questions", "questions[0].instructions"),
        ({"questions": [{**YES, "choices": []}]}, "questions", "choices"),
        ({"questions": [{**WHICH, "choices": [{"value": "a"}]}]}, "questions", "at least 2"),
        (
            {"questions": [{**WHICH, "choices": [{"value": True}, {"value": "true"}]}]},
            "questions",
            "questions[0].choices: choices 0 and 1 are written alike",
        ),
        ({"questions": [{**HOW, "levels": [{"label": "a"}] * 11}]}, "questions", "10"),
        ({"questions": [{**HOW, "levels": [{"label": "a"}] * 2}]}, "questions", "written alike"),
        (
            {"questions": [{**WHICH, "choices": [{"value": "dog " * 300}, {"value": "x"}]}]},
            "input",
            "256",
        ),
        ({"joint": True}, "joint", "a canvas of its own"),
        ({"samples": 8}, "samples", "nothing is drawn"),
        ({"trajectory": "delta"}, "trajectory", "nothing is written"),
        ({"steps": 0}, "steps", "steps"),
        ({"steps": 65}, "steps", "64"),
        ({"temperature": 1}, "temperature", "unknown field"),
        ({"stream": True}, "stream", "unknown field"),
        ({"question": []}, "question", "did you mean questions?"),
    ],
)
def test_a_refused_field_is_named(served, change, param, words):
    status, answer = post(served, **change)
    assert status == 400, answer
    assert answer["error"]["param"] == param and words in answer["error"]["message"]


def test_too_much_work_is_refused_with_both_numbers(tiny):
    server = run_server(make_engine(tiny), settings_of(max_work=1000))
    served = next(server)
    status, answer = post(served, questions=[WHICH] * 40)
    assert status == 400 and answer["error"]["param"] == "questions"
    assert answer["error"]["message"].endswith("the limit is 1000")
    next(server, None)


def test_a_model_that_generates_in_blocks_is_refused(tmp_path):
    stories = BUNDLED / "stories"
    shape = parse_shape("tiny", "sdar", stories)
    write_random(tmp_path / "b", shape, family="sdar", dtype=torch.float32, tokenizer=stories)
    server = run_server(make_engine(load_checkpoint(tmp_path / "b")), settings_of())
    status, answer = post(next(server))
    assert status == 400 and answer["error"]["param"] == "model"
    assert "generates in blocks" in answer["error"]["message"]
    next(server, None)


def test_a_client_that_hangs_up_stops_the_work(chatty):
    turns = chatty.engine.scorer
    many = [{**WHICH, "choices": [{"value": f"{i}"} for i in range(30)]}] * 100
    connection = raw_post(chatty.port, {**BODY, "questions": many, "steps": 4}, path=PATH)
    wait_for(lambda: turns.waiting, 30)
    connection.close()
    wait_for(lambda: not turns.waiting, 5)
    assert post(chatty)[0] == 200


def test_decisions_are_counted(chatty):
    before = metric(chatty, "xdlm_decisions_total")
    assert post(chatty, questions=[WHICH], steps=2)[0] == 200
    assert metric(chatty, "xdlm_decisions_total") - before == 2


def test_parts_are_of_equal_size():
    assert parts_of(5, 1) == [0] and parts_of(5, 2) == [0, 2] and parts_of(3, 9) == [0, 1, 2]


def test_answers_are_whole_texts():
    """The beginning of another answer is an answer of its own."""
    decision = Decision([7], [[3], [3, 4]], [1, 2], 3, 9)
    assert decision.canvases(0) == {(): [7, 9, 9, 9]}
    assert decision.canvases(1) == {(3,): [7, 3, 9, 9]}
    assert decision.canvases(2) == {(3, 1): [7, 3, 1, 9], (3, 4): [7, 3, 4, 9]}
