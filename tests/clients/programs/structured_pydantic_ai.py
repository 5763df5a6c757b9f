"""pydantic-ai: outputs by tools and by formats, and a tool loop.

Usage: structured_pydantic_ai.py URL BIAS; BIAS is the logit_bias that makes a call likely. Prints
what it saw as JSON.
"""

import asyncio
import json
import sys
from typing import Any, Literal

from pydantic import BaseModel
from pydantic_ai import Agent, NativeOutput, RunContext, ToolOutput
from pydantic_ai.models.openai import OpenAIChatModel, OpenAIResponsesModel
from pydantic_ai.providers.openai import OpenAIProvider
from pydantic_ai.tools import ToolDefinition


class Pet(BaseModel):
    """A pet."""

    kind: Literal["cat", "dog"]
    age: int


provider = OpenAIProvider(base_url=f"{sys.argv[1]}/v1", api_key="none")
settings: Any = {"max_tokens": 100}
models = {
    "chat": OpenAIChatModel("caller", provider=provider),
    "responses": OpenAIResponsesModel("caller", provider=provider),
}
seen: dict[str, Any] = {}


async def main() -> None:
    """All of it, on one event loop."""
    for name, model in models.items():
        for kind, output in (("tool", ToolOutput(Pet)), ("native", NativeOutput(Pet))):
            agent = Agent(model, output_type=output, model_settings=settings)
            seen[f"{name} {kind}"] = type((await agent.run("A pet:")).output).__name__
            async with agent.run_stream("A pet:") as stream:
                seen[f"{name} {kind} stream"] = type(await stream.get_output()).__name__

    async def once(context: RunContext[list[int]], tool: ToolDefinition) -> ToolDefinition | None:
        return None if context.deps else tool

    bias = {**settings, "logit_bias": json.loads(sys.argv[2])}
    agent = Agent(
        models["chat"], deps_type=list[int], output_type=NativeOutput(Pet), model_settings=bias
    )

    @agent.tool(prepare=once)
    def add(context: RunContext[list[int]], a: int, b: int) -> int:
        """Add two numbers."""
        context.deps.append(a + b)
        return a + b

    sums: list[int] = []
    done = await agent.run("Add, then name a pet.", deps=sums)
    seen["loop"] = [type(done.output).__name__, len(sums), len(done.all_messages())]


asyncio.run(main())
print(json.dumps(seen))
