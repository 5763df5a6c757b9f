"""LangChain's structured output and tool loop. Usage: structured_langchain.py URL; prints JSON."""

import json
import sys
from typing import Any, Literal

from langchain_core.messages import HumanMessage, ToolMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI
from pydantic import BaseModel, Field


class Pet(BaseModel):
    """A pet."""

    name: str = Field(max_length=12)
    kind: Literal["cat", "dog"]
    age: int


@tool
def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


base: dict[str, Any] = {"base_url": f"{sys.argv[1]}/v1", "api_key": "none", "model": "caller"}
base |= {"max_tokens": 100, "max_retries": 0}
chat = ChatOpenAI(**base)
newer = ChatOpenAI(**base, use_responses_api=True)
seen: dict[str, Any] = {}

for name, model in (("chat", chat), ("responses", newer)):
    for method in ("json_schema", "function_calling"):
        bound = model.with_structured_output(Pet, method=method)
        seen[f"{name} {method}"] = type(bound.invoke("A pet:")).__name__
        *_, last = bound.stream("A pet:")
        seen[f"{name} {method} stream"] = type(last).__name__
free = chat.with_structured_output(method="json_mode", include_raw=True).invoke("JSON:")
seen["json_mode"] = type(free["parsed"]).__name__

for name, model in (("chat", chat), ("responses", newer)):
    calling = model.bind_tools([add], tool_choice="any")
    talk: list[Any] = [HumanMessage("Add.")]
    said = calling.invoke(talk)
    (call,) = said.tool_calls
    talk += [said, add.invoke(call)]
    assert isinstance(talk[-1], ToolMessage)
    seen[f"{name} sum"] = int(talk[-1].text) == call["args"]["a"] + call["args"]["b"]
    seen[f"{name} end"] = type(
        model.with_structured_output(Pet, method="json_schema").invoke(talk)
    ).__name__
    chunks = list(calling.stream("Add."))
    whole = chunks[0]
    for chunk in chunks[1:]:
        whole += chunk
    (call,) = whole.tool_calls
    seen[f"{name} stream"] = [call["name"], sorted(call["args"])]

print(json.dumps(seen))
