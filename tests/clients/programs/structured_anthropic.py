"""Anthropic's SDK: parsed messages, and a tool loop with bound arguments.

Usage: structured_anthropic.py URL; prints what it saw as JSON.
"""

import json
import sys
from typing import Any, Literal

import anthropic
from pydantic import BaseModel


class Pet(BaseModel):
    """A pet."""

    kind: Literal["cat", "dog"]
    age: int


client = anthropic.Anthropic(base_url=sys.argv[1], api_key="none", max_retries=0)
talk: Any = [{"role": "user", "content": "A pet:"}]
wanted: dict[str, Any] = {"model": "caller", "messages": talk, "max_tokens": 100}
schema = {**Pet.model_json_schema(), "additionalProperties": False}
seen: dict[str, Any] = {}

done = client.messages.parse(**wanted, output_format=Pet)
seen["parse"] = [type(done.parsed_output).__name__, done.stop_reason]
config: Any = {"format": {"type": "json_schema", "schema": schema}}
with client.messages.stream(**wanted, output_config=config) as stream:
    text = "".join(stream.text_stream)
    final = stream.get_final_message()
seen["stream"] = [type(Pet.model_validate_json(text)).__name__, final.stop_reason]

tools: Any = [{"name": "keep", "description": "Keep a pet.", "input_schema": schema}]
made = client.messages.create(**wanted, tools=tools, tool_choice={"type": "any"})
(use,) = made.content
assert use.type == "tool_use"
Pet.model_validate(use.input)
seen["use"] = [use.name, made.stop_reason]
result = {"type": "tool_result", "tool_use_id": use.id, "content": "kept"}
told = [*talk, {"role": "assistant", "content": made.content}]
told += [{"role": "user", "content": [result]}]
ended = client.messages.parse(**{**wanted, "messages": told}, output_format=Pet)
seen["after_use"] = type(ended.parsed_output).__name__
chosen: Any = {"type": "tool", "name": "keep"}
with client.messages.stream(**wanted, tools=tools, tool_choice=chosen) as stream:
    (use,) = stream.get_final_message().content
assert use.type == "tool_use"
seen["use_stream"] = type(Pet.model_validate(use.input)).__name__

print(json.dumps(seen))
