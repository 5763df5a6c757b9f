"""Descriptions, bounds and examples of request fields, for the OpenAPI document.

Routes check bodies by themselves; a test compares the two.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from models.interface import ModelInfo
from sampler.params import MAX_INTEGER
from server.api.schemas import sampling
from server.config import Settings

Schema = dict[str, Any]
THE_CHECKPOINTS = "; the checkpoint's by default"


def _said(description: str, example: Any, **bounds: Any) -> Schema:
    return {"description": description, "examples": [example], **bounds}


def _question(kind: str) -> dict[str, Schema]:
    """Fields of all kinds of questions."""
    return {
        "type": _said(f"must be {kind}", kind),
        "instructions": _said("the question", "Is there an animal?"),
        "name": _said("returned with the answer", "animal"),
    }


EXAMPLE_TOOL: Schema = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "weather of a place",
        "parameters": {"type": "object", "properties": {"place": {"type": "string"}}},
    },
}
EXAMPLE_FORMAT: Schema = {"type": "json_schema", "schema": {"type": "boolean"}}

FIELDS: dict[str, Schema] = {
    **sampling.FIELDS,
    "model": _said("name of a served model; optional", "stories"),
    "prompt": _said(
        "text, texts, token ids, or several lists of them; /tokenize takes one text",
        "Once upon a time",
        minItems=1,
    ),
    "messages": _said(
        "the conversation, for the checkpoint's chat template",
        [{"role": "user", "content": "Once upon a time"}],
    ),
    "chat_template_kwargs": _said("variables that the chat template reads", {}),
    "tools": _said("functions that the model may call", [EXAMPLE_TOOL]),
    "tool_choice": _said("whether a function is called", "auto"),
    "parallel_tool_calls": _said("false: one call at most", False),
    "suffix": _said("fixed text after the generated text", " The end."),
    "infill": _said("also fill masks in a prompt of token ids", False),
    "draft": _said(
        "sampler entropy_bound: text or ids that the first canvas begins with; null leaves noise",
        "Once there was",
    ),
    "pinned": _said(
        "sampler entropy_bound: ids that positions of the text keep; null leaves one free",
        [None, None, 5],
    ),
    "echo": _said("repeat the prompt before the generated text", False),
    "max_tokens": _said(f"positions to generate{THE_CHECKPOINTS}", 120, minimum=0),
    "max_completion_tokens": _said("same as max_tokens", 120, minimum=0),
    "n": _said("choices for each prompt", 1),
    "ignore_eos": _said("do not end the text at an end token", False),
    "stop": _said("the text ends before the first of these", ["\n"]),
    "user": _said("accepted, not used", "someone"),
    "stream": _said("answer as server-sent events", False),
    "stream_options": _said("only with stream: true", {"include_usage": True}),
    "logprobs": _said(
        "return log-probabilities; completions: also of this many most likely tokens", 2
    ),
    "top_logprobs": _said("most likely tokens to return for each token; needs logprobs: true", 2),
    "logit_bias": _said("values added to the logits of token ids", {"5": -100}),
    "latency_budget_ms": _said(
        "milliseconds from arrival to the end; steps are reduced to meet it",
        500,
    ),
    "trajectory": _said("delta returns the changes of each step; needs stream", "none"),
    "trajectory_guesses": _said(
        "also the tokens that masks would have become; samplers topk, threshold and dream", False
    ),
    "diffusing": _said("return the whole canvas as text at each step; needs stream", False),
    "class_label": _said("class of the image, by number", 7, minimum=0),
    "class_labels": _said("classes of the images, n of each", [0, 1, 2], minItems=1),
    "size": _said("width x height; only the model's size", "auto"),
    "response_format": _said(
        "constrains the text: json_schema, json_object, regex; or text", {"type": "json_object"}
    ),
    "structured_outputs": _said(
        "constrains the text, as vLLM has it: json, regex, choice or json_object",
        {"choice": ["cats", "dogs"]},
    ),
    "guided_json": _said("JSON schema of the text, as an object or its text", {"type": "boolean"}),
    "guided_regex": _said("regular expression that the whole text matches", "[a-z]{1,12}"),
    "guided_choice": _said("texts, one of which is the answer", ["cats", "dogs"]),
    "output_format": _said("png by default; both are lossless", "png"),
    "partial_images": _said("number of intermediate images of each; needs stream", 2),
    "format": _said("gif is animated; png shows some steps", "gif"),
    "runs": _said("trajectories to show side by side", [{"events": []}], minItems=1, maxItems=4),
    "theme": _said("colours of the picture", "dark"),
    "sync": _said("runs side by side at the same share of their steps or time", "time"),
    "text": _said("text or token ids to score", " named Lily.", minItems=1),
    "end": _said("also score the end token after the text", False),
    "estimator": _said("nelbo: eq. 15 of the paper; llada: masks only", "nelbo"),
    "samples": _said("Monte Carlo samples of a score", 32),
    "add_special_tokens": _said("prepend the start token to a prompt", True),
    "return_token_strs": _said("also return the text of each id", False),
    "tokens": _said("token ids", [1, 2, 3]),
    "input": _said("a user's text, or a list of messages", "Once upon a time"),
    "instructions": _said("a system message before the input", "You tell stories."),
    "max_output_tokens": _said(f"positions to generate{THE_CHECKPOINTS}", 120),
    "metadata": _said("up to 16 texts by name, returned with the answer", {"run": "7"}),
    "questions": _said(
        "closed questions about the input",
        [{"type": "predicate", "instructions": "Is there an animal?"}],
    ),
    "system": _said("a system message: text, or text parts", "You tell stories."),
    "stop_sequences": _said("the text ends before the first of these", ["\n"]),
}
"""Fields of bodies, by name."""

PARTS: dict[str, dict[str, Schema]] = {
    "DecisionsBody": {
        "input": _said("a text, or messages of a user", "Tom had a dog."),
        "steps": _said("network evaluations of each answer", 1),
        "seed": _said("accepted, not used: nothing is drawn", 7),
    },
    "DecisionMessage": {
        "role": _said("must be user", "user"),
        "content": _said("text, or text parts that are joined by line breaks", "Tom had a dog."),
    },
    "DecisionPart": {
        "type": _said("must be input_text", "input_text"),
        "text": _said("text of the part", "Tom"),
    },
    "Predicate": _question("predicate"),
    "ChoiceQuestion": {
        **_question("choice"),
        "choices": _said("answers to choose from", [{"value": "dog"}, {"value": "cat"}]),
    },
    "ScoreQuestion": {
        **_question("score"),
        "levels": _said("from the lowest to the highest", [{"label": "bad"}, {"label": "good"}]),
    },
    "Choice": {
        "value": _said("the answer; true and false are written so", "dog"),
        "description": _said("for the model", "an animal that barks"),
    },
    "Level": {
        "label": _said("the level as it is written", "good"),
        "description": _said("for the model", "better than bad"),
    },
    "ResponsesBody": {
        "text": _said("settings of the text", {"format": {"type": "text"}}),
        "tools": _said("functions that the model may call", [{"type": "function", "name": "f"}]),
    },
    "MessagesBody": {
        "tools": _said("tools that the model may call", [{"name": "f", "input_schema": {}}]),
        "tool_choice": _said("whether a tool is called", {"type": "auto"}),
        "output_config": _said("settings of the output", {"format": EXAMPLE_FORMAT}),
        "output_format": _said("an earlier name of output_config.format", EXAMPLE_FORMAT),
    },
    "OutputConfig": {"format": _said("schema of the text", EXAMPLE_FORMAT)},
    "FlatSchema": {
        "type": _said("must be json_schema", "json_schema"),
        "schema": _said("the text is JSON of this schema", {"type": "boolean"}),
        "name": _said("returned with the answer", "answer"),
        "description": _said("returned with the answer", "yes or no"),
        "strict": _said("returned with the answer; the text is of the schema always", True),
    },
    "PlainFormat": {"type": _said("text: any; json_object: a JSON object", "json_object")},
    "InputCall": {
        "type": _said("kind of item", "function_call"),
        "call_id": _said("id of the call", "call_1"),
        "name": _said("name of the function", "weather"),
        "arguments": _said("JSON text of an object", "{}"),
    },
    "InputResult": {
        "type": _said("kind of item", "function_call_output"),
        "call_id": _said("call whose result this is", "call_1"),
        "output": _said("text, or text parts that are joined by line breaks", "sunny"),
    },
    "FlatTool": {
        "type": _said("must be function", "function"),
        "name": _said("name of the function", "weather"),
        "description": _said("for the model", "weather of a place"),
        "parameters": _said("JSON Schema of the arguments", {"type": "object"}),
        "strict": _said("arguments must be of the schema", False),
    },
    "FlatChoice": {
        "type": _said("must be function", "function"),
        "name": _said("the function that is called", "weather"),
    },
    "UsePart": {
        "type": _said("kind of part", "tool_use"),
        "id": _said("id of the call", "toolu_1"),
        "name": _said("name of the tool", "weather"),
        "input": _said("arguments of the call", {}),
    },
    "ResultPart": {
        "type": _said("kind of part", "tool_result"),
        "tool_use_id": _said("call whose result this is", "toolu_1"),
        "content": _said("text, or text parts that are joined by line breaks", "sunny"),
        "is_error": _said("accepted, not used", False),
    },
    "CustomTool": {
        "type": _said("must be custom", "custom"),
        "name": _said("name of the tool", "weather"),
        "description": _said("for the model", "weather of a place"),
        "input_schema": _said("JSON Schema of the arguments", {"type": "object"}),
        "strict": _said("arguments must be of the schema", False),
    },
    "Choosing": {
        "type": _said("whether a tool is called", "auto"),
        "name": _said("the tool that is called; type tool", "weather"),
        "disable_parallel_tool_use": _said("one call at most", False),
    },
    "TextSettings": {
        "format": _said("any text, a JSON object, or JSON of a schema", EXAMPLE_FORMAT),
        "verbosity": _said("accepted at medium", "medium"),
    },
    "InputMessage": {
        "type": _said("kind of item", "message"),
        "role": _said("author of the message; developer is read as system", "user"),
        "content": _said("text, or text parts that are joined by line breaks", "Once upon a time"),
    },
    "InputTextPart": {
        "type": _said("kind of part", "input_text"),
        "text": _said("text of the part", "Once"),
    },
    "Turn": {
        "role": _said("author of the message", "user"),
        "content": _said("text, or text parts that are joined by line breaks", "Once upon a time"),
    },
    "BlockPart": {"type": _said("kind of part", "text"), "text": _said("text of the part", "Once")},
    "ImageBody": {
        "prompt": _said("class of the image, by name or number", "7"),
        "response_format": _said("images are returned in base64", "b64_json"),
    },
    "Message": {
        "role": _said("author of the message; developer is read as system", "user"),
        "content": _said("text, or text parts that are joined by line breaks", "Once upon a time"),
        "name": _said("given to the chat template for messages of the role tool", "someone"),
        "tool_calls": _said("calls of tools by the assistant", []),
        "tool_call_id": _said("call whose result this is; role tool", "call_1"),
    },
    "Tool": {
        "type": _said("must be function", "function"),
        "function": _said("the function", EXAMPLE_TOOL["function"]),
    },
    "Function": {
        "name": _said("name of the function", "weather"),
        "description": _said("for the model", "weather of a place"),
        "parameters": _said("JSON Schema of the arguments", {"type": "object"}),
        "strict": _said("arguments must be of the schema", False),
    },
    "NamedChoice": {
        "type": _said("must be function", "function"),
        "function": _said("the function that is called", {"name": "weather"}),
    },
    "NamedFunction": {"name": _said("name of the function", "weather")},
    "ToolCall": {
        "id": _said("id of the call", "call_1"),
        "type": _said("must be function", "function"),
        "function": _said("the function and its arguments", {"name": "f", "arguments": "{}"}),
    },
    "CalledFunction": {
        "name": _said("name of the function", "weather"),
        "arguments": _said("JSON text of an object", "{}"),
    },
    "Recorded": {
        "id": _said("id of the trajectory; not used", "traj-0123456789abcdef01234567"),
        "events": _said("all records, each with event and data", [], minItems=1),
    },
    "TextPart": {"type": _said("must be text", "text"), "text": _said("text of the part", "Once")},
    "ResponseFormat": {
        "type": _said("kind of the constraint; text is none", "json_object"),
        "json_schema": _said(
            "with type json_schema: its schema; name, description and strict are accepted",
            {"schema": {"type": "boolean"}},
        ),
        "regex": _said("with type regex: the whole text matches it", "[a-z]{1,12}"),
    },
    "StreamOptions": {
        "include_usage": _said("send the usage in a last chunk", True),
        "continuous_usage_stats": _said("send the usage so far in every chunk", False),
    },
}
"""Fields of objects within bodies, by object."""


def by_settings(settings: Settings, infos: Sequence[ModelInfo]) -> dict[str, Schema]:
    """Bounds by this server's settings and models; of several models the widest.

    ``members`` are bounds of lists' entries, by type.
    """
    canvas = max(info.max_length for info in infos)
    classes = max(1, *(info.classes for info in infos))
    ids = {"minimum": 0, "maximum": max(info.vocab_size for info in infos) - 1}
    names = [info.name for info in infos]
    counts = {"minimum": 0, "maximum": MAX_INTEGER}
    stops = {
        "maxItems": settings.max_stops,
        "members": {"string": {"maxLength": settings.max_stop_length}},
    }
    budgets = {"maxItems": settings.max_steps, "members": {"integer": counts}}
    return {
        "model": {"enum": [*names, None], "examples": names[:1]},
        "class_label": {"maximum": classes - 1},
        "class_labels": {
            "maxItems": settings.max_choices,
            "members": {"integer": {"minimum": 0, "maximum": classes - 1}},
        },
        "n": {"maximum": settings.max_choices},
        "steps": {"maximum": settings.max_steps},
        "max_tokens": {"maximum": canvas},
        "max_completion_tokens": {"maximum": canvas},
        "max_output_tokens": {"maximum": canvas},
        "stop": {**stops, "maxLength": settings.max_stop_length},
        "stop_sequences": stops,
        "topk_absorb": budgets,
        "topk_uniform": budgets,
        "samples": {"maximum": settings.max_score_samples},
        "text": {"members": {"integer": ids}},
        "tokens": {"members": {"integer": ids}},
        "prompt": {"members": {"integer": ids}},
    }
