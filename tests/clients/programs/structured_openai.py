"""OpenAI's SDK: parsed answers, and tools, on both of its APIs, whole and streamed.

Usage: structured_openai.py URL; prints what it saw as JSON.
"""

import json
import sys
from typing import Any, Literal

import openai
from pydantic import BaseModel, Field


class Pet(BaseModel):
    """A pet."""

    name: str = Field(max_length=12)
    kind: Literal["cat", "dog"]
    age: int
    weight: float | None


client = openai.OpenAI(base_url=f"{sys.argv[1]}/v1", api_key="none", max_retries=0)
talk: Any = [{"role": "user", "content": "A pet:"}]
chat: dict[str, Any] = {"model": "caller", "messages": talk, "max_tokens": 100}
respond: dict[str, Any] = {"model": "caller", "input": "A pet:", "max_output_tokens": 100}
parameters = Pet.model_json_schema() | {"additionalProperties": False}
function = {"name": "keep", "description": "Keep a pet.", "parameters": parameters}
tools: Any = [{"type": "function", "function": function}]
flat: Any = [{"type": "function", **function, "strict": True}]
seen: dict[str, Any] = {}


def kind(value: object) -> str:
    """The name of a value's type."""
    return type(value).__name__


done = client.chat.completions.parse(**chat, response_format=Pet)
seen["chat"] = [kind(done.choices[0].message.parsed), done.choices[0].finish_reason]
with client.chat.completions.stream(**chat, response_format=Pet) as stream:
    last = stream.get_final_completion()
seen["chat_stream"] = [kind(last.choices[0].message.parsed), last.choices[0].finish_reason]

answer = client.responses.parse(**respond, text_format=Pet)
seen["responses"] = [kind(answer.output_parsed), answer.status]
with client.responses.stream(**respond, text_format=Pet) as stream:
    final = stream.get_final_response()
seen["responses_stream"] = [kind(final.output_parsed), final.status]

# a tool loop: the call is made, its result goes back, and an answer of the format ends it
first = client.chat.completions.create(**chat, tools=tools, tool_choice="required")
(call,) = first.choices[0].message.tool_calls or []
assert call.type == "function"
Pet.model_validate_json(call.function.arguments)
seen["call"] = [call.function.name, first.choices[0].finish_reason]
told = [*talk, first.choices[0].message]
told += [{"role": "tool", "tool_call_id": call.id, "content": "kept"}]
ended = client.chat.completions.parse(**{**chat, "messages": told}, response_format=Pet)
seen["after_call"] = kind(ended.choices[0].message.parsed)
named: Any = {"type": "function", "function": {"name": "keep"}}
with client.chat.completions.stream(**chat, tools=tools, tool_choice=named) as stream:
    whole = stream.get_final_completion().choices[0]
(call,) = whole.message.tool_calls or []
Pet.model_validate_json(call.function.arguments)
seen["call_stream"] = [call.function.name, whole.finish_reason]

made = client.responses.create(**respond, tools=flat, tool_choice="required")
(item,) = made.output
assert item.type == "function_call"
Pet.model_validate_json(item.arguments)
seen["item"] = [item.name, made.status]
result = {"type": "function_call_output", "call_id": item.call_id, "output": "kept"}
told = [{"role": "user", "content": "A pet:"}, *made.output, result]
again = client.responses.parse(**{**respond, "input": told}, text_format=Pet)
seen["after_item"] = kind(again.output_parsed)
with client.responses.stream(**respond, tools=flat, tool_choice="required") as stream:
    (item,) = stream.get_final_response().output
Pet.model_validate_json(item.arguments)
seen["item_stream"] = item.name

# both at once: the model chooses between a call and a text of the format
either = client.chat.completions.parse(
    **chat, response_format=Pet, tools=[openai.pydantic_function_tool(Pet, name="keep")]
)
message = either.choices[0].message
calls = message.tool_calls or []
assert (message.parsed is None) == bool(calls)
seen["either"] = kind(calls[0].function.parsed_arguments if calls else message.parsed)

print(json.dumps(seen))
