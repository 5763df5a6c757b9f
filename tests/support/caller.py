"""A tiny checkpoint with tokens that are whole calls of a tool, and a template that shows tools."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from tokenizers import AddedToken, Tokenizer

from models.bundled import BUNDLED
from models.checkpoints.load import Checkpoint, load_checkpoint
from models.families.llada import LLaDA, LLaDAConfig
from tests.support.serving import write_tiny

TEMPLATE = """\
{{- bos_token }}
{%- if tools %}
{{- 'Tools: ' }}{%- for tool in tools %}{{ tool.function | tojson }}{{ '\\n' }}{% endfor %}
{#- A call is <tool_call>{"name": name, "arguments": object}</tool_call> #}
{%- endif %}
{%- for message in messages %}
{%- if message.role == 'tool' %}
{{- 'result: ' + message.content + '\\n' }}
{%- else %}
{{- message.role + ': ' + message.content + '\\n' }}
{%- for call in message.tool_calls or [] %}
{{- '<tool_call>' + (call.function | tojson) + '</tool_call>\\n' }}
{%- endfor %}
{%- endif %}
{%- endfor %}
{{- 'assistant: ' }}"""
"""In Hermes' syntax, short."""

ARGUMENTS = '{"a":2,"b":3}'
CALL = f'<tool_call>\n{{"name": "add", "arguments": {ARGUMENTS}}}\n</tool_call>'
ANSWER = "It is 5."
TOKENS = (CALL, f"I add.\n{CALL}", "<tool_call>", ANSWER)
"""Tokens that the vocabulary has besides those of ``stories``, in the order of their ids."""
FIRST = 4454
"""Id of the first of them."""
TOOL: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "add",
        "description": "a + b",
        "parameters": {
            "type": "object",
            "properties": {"a": {"type": "integer"}, "b": {"type": "integer"}},
            "required": ["a", "b"],
            "additionalProperties": False,
        },
    },
}


def saying(token: str) -> dict[str, Any]:
    """Fields of a body whose answer is one of ``TOKENS`` at every position."""
    return {"logit_bias": {str(FIRST + TOKENS.index(token)): 100}, "temperature": 0}


def write_caller(folder: Path) -> Checkpoint:
    """Write it, and load it."""
    write_tiny(folder)
    named = json.loads((BUNDLED / "stories" / "tokenizer_config.json").read_text())
    named["chat_template"] = TEMPLATE
    (folder / "tokenizer_config.json").write_text(json.dumps(named))
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.add_tokens([AddedToken(token, normalized=False) for token in TOKENS])
    assert tokenizer.token_to_id(TOKENS[0]) == FIRST
    tokenizer.save(str(folder / "tokenizer.json"))
    config = json.loads((folder / "config.json").read_text())
    size = FIRST + len(TOKENS)
    config |= {"vocab_size": size, "embedding_size": size, "max_sequence_length": 512}
    (folder / "config.json").write_text(json.dumps(config))
    torch.manual_seed(3)
    model = LLaDA(LLaDAConfig.from_dict(config))
    save_file({n: p.detach() for n, p in model.named_parameters()}, folder / "model.safetensors")
    return load_checkpoint(folder)
