"""LangChain's OpenAI classes. Usage: with_langchain.py URL; prints what it saw as JSON."""

import asyncio
import json
import sys

from langchain_core.messages import HumanMessage, SystemMessage
from langchain_openai import ChatOpenAI, OpenAI

base = {"base_url": f"{sys.argv[1]}/v1", "api_key": "none", "model": "stories", "seed": 7}
chat = ChatOpenAI(**base, max_tokens=40, extra_body={"steps": 8}, max_retries=0, stream_usage=True)
text = OpenAI(**base, max_tokens=40, extra_body={"steps": 8}, max_retries=0)
blocks = chat.bind(
    extra_body={"steps": 8, "sampler": "topk", "mixing_ratio": 0, "block_length": 10}
)
prompt = "Once upon a time"
talk = [SystemMessage("You tell stories."), HumanMessage(prompt)]

seen = {}
answer = chat.invoke(talk)
seen["invoke"] = answer.content
seen["reason"] = answer.response_metadata["finish_reason"]
seen["usage"] = answer.usage_metadata
chunks = list(chat.stream(talk))
seen["stream"] = "".join(chunk.content for chunk in chunks)
seen["stream_usage"] = next(c.usage_metadata for c in chunks if c.usage_metadata)
seen["blocks"] = [chunk.content for chunk in blocks.stream(talk) if chunk.content]
seen["second_turn"] = chat.invoke([*talk, answer, HumanMessage("Tom had a dog.")]).content
seen["batch"] = [m.content for m in chat.batch([talk, talk, talk])]
told = chat.bind(logprobs=True, top_logprobs=2).invoke(talk)
seen["logprobs"] = len(told.response_metadata["logprobs"]["content"])


async def together() -> None:
    """The asynchronous calls."""
    seen["ainvoke"] = (await chat.ainvoke(talk)).content
    seen["astream"] = "".join([chunk.content async for chunk in chat.astream(talk)])


asyncio.run(together())
seen["text"] = text.invoke(prompt)
seen["text_stream"] = "".join(text.stream(prompt))
seen["texts"] = text.batch([prompt, "Tom had a dog."])
try:
    chat.bind(temperature=9).invoke(talk)
except Exception as error:
    seen["error"] = type(error).__name__

print(json.dumps(seen))
