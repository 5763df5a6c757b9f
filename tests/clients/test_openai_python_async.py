"""OpenAI's Python SDK, asynchronous."""

from __future__ import annotations

import asyncio
from contextlib import aclosing

import openai
import pytest

from tests.clients.test_openai_python import BLOCKS, CHAT, ENDING, TEXT


@pytest.fixture
async def client(tiny_chat):
    async with openai.AsyncOpenAI(
        base_url=f"{tiny_chat.url}/v1", api_key="none", max_retries=0
    ) as sdk:
        yield sdk


async def test_many_at_once_get_what_each_gets_alone(client):
    seeds = range(4)
    alone = [await client.completions.create(**{**TEXT, "seed": seed}) for seed in seeds]
    together = await asyncio.gather(
        *(client.completions.create(**{**TEXT, "seed": seed}) for seed in seeds)
    )
    assert [t.choices[0].text for t in together] == [a.choices[0].text for a in alone]
    assert len({a.choices[0].text for a in alone}) == 4


async def test_streams_add_up(client):
    body = {**ENDING, "extra_body": BLOCKS}
    whole = await client.chat.completions.create(**body)
    stream = await client.chat.completions.create(**body, stream=True)
    pieces = [c.choices[0].delta.content or "" async for c in stream]
    assert "".join(pieces) == whole.choices[0].message.content
    async with client.chat.completions.stream(**body) as helper:
        kinds = [event.type async for event in helper]
        final = await helper.get_final_completion()
    assert kinds.count("content.delta") > 2 and kinds.count("content.done") == 1
    assert final.choices[0].message.content == whole.choices[0].message.content


async def test_a_cancelled_task_frees_its_slot(client, tiny_chat):
    scheduler = tiny_chat.engine.scheduler

    async def is_free() -> None:
        while scheduler.running:
            await asyncio.sleep(0.002)

    long = {**TEXT, "extra_body": {"steps": 4000}}
    task = asyncio.create_task(client.completions.create(**long))
    while not scheduler.running:
        await asyncio.sleep(0.002)
    task.cancel()
    await asyncio.wait_for(is_free(), 1)
    long["extra_body"] = {"steps": 4000, "trajectory": "delta"}
    stream = await client.completions.create(**long, stream=True)
    async with stream, aclosing(aiter(stream)) as chunks:
        await anext(chunks)
        assert scheduler.running == 1
    await asyncio.wait_for(is_free(), 1)


async def test_raw_responses_and_errors(client):
    raw = await client.chat.completions.with_raw_response.create(**CHAT)
    assert raw.headers["x-request-id"] and raw.parse().choices[0].message.content
    with pytest.raises(openai.BadRequestError) as caught:
        await client.chat.completions.create(**CHAT, top_p=7)
    assert caught.value.param == "top_p"
    assert [m.id async for m in client.models.list()] == ["tiny"]
