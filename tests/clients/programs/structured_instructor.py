"""instructor. Usage: structured_instructor.py URL; prints what it saw as JSON."""

import json
import sys
from typing import Any, Literal

import instructor
import openai
from pydantic import BaseModel, Field


class Pet(BaseModel):
    """A pet."""

    name: str = Field(max_length=12)
    kind: Literal["cat", "dog"]
    age: int


client = openai.OpenAI(base_url=f"{sys.argv[1]}/v1", api_key="none", max_retries=0)
wanted: dict[str, Any] = {"model": "caller", "response_model": Pet, "max_retries": 0}
wanted |= {"messages": [{"role": "user", "content": "A pet:"}], "max_tokens": 100}
seen: dict[str, Any] = {}

for mode in (instructor.Mode.TOOLS, instructor.Mode.TOOLS_STRICT, instructor.Mode.JSON_SCHEMA):
    patched = instructor.from_openai(client, mode=mode)
    seen[mode.value] = type(patched.chat.completions.create(**wanted)).__name__
    partial = {name: value for name, value in wanted.items() if name != "max_retries"}
    *_, last = patched.chat.completions.create_partial(**partial)
    seen[f"{mode.value} stream"] = Pet.model_validate(last.model_dump()).kind in ("cat", "dog")

print(json.dumps(seen))
