"""Unsupported parameters of OpenAI and vLLM that are accepted at values that change nothing.

Null is accepted for all of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Neutral:
    """An unsupported parameter and the values at which it is accepted.

    Attributes:
        values: accepted values, which change nothing.
        why: reason why other values are refused.
        labels: types of which every value is accepted and ignored.
        same_as: a field of the body whose value is accepted too.
        off: another field and its value that disables this parameter, so that any value is
            accepted.
    """

    values: tuple[Any, ...] = ()
    why: str = ""
    labels: tuple[type, ...] = ()
    same_as: str | None = None
    off: tuple[str, Any] | None = None

    def allows(self, value: Any, body: Mapping[str, Any]) -> bool:
        """Whether a value is accepted in a body. True differs from 1, and false from 0."""
        if self.off is not None and body.get(self.off[0]) == self.off[1]:
            return isinstance(value, (list, dict))
        if isinstance(value, self.labels):
            return True
        same = () if self.same_as is None else (body.get(self.same_as),)
        if {} in self.values and says_nothing(value):
            return True
        return any(
            value == v and isinstance(value, bool) == isinstance(v, bool)
            for v in (*self.values, *same)
        )

    @property
    def reason(self) -> str:
        """The reason as the end of an error message."""
        return f": {self.why}" if self.why else ""

    def schema(self) -> dict[str, Any]:
        """JSON Schema of the parameter."""
        if self.labels:
            kinds = [{"type": "object" if kind is dict else "string"} for kind in self.labels]
            return {
                "anyOf": [*kinds, *({"enum": [v]} for v in self.values), {"type": "null"}],
                "description": "accepted, not used",
                "examples": [None],
            }
        also = "" if self.same_as is None else f", or at that of {self.same_as}"
        also += "" if self.off is None else f", and with {self.off[0]}: {self.off[1]}"
        return {
            "enum": [*self.values, None],
            "description": f"accepted at the value that changes nothing{also}",
            "examples": [None],
        }


def says_nothing(value: Any) -> bool:
    """Whether a value is null, false, empty, or an object of nulls."""
    if isinstance(value, dict):
        return all(part is None for part in value.values())
    return value is None or value is False or value in ("", [])


LABEL = Neutral(labels=(str,))
NO_SOUND = "these models read and write text only"
NOT_REGULAR = "grammars are not regular; use a JSON schema or a regular expression"
NO_PENALTY = "counts of earlier tokens mean nothing where all positions are written at once"
NO_TRUNCATION = "use temperature and top_p"
NO_TEMPLATE = "conversations use the checkpoint's chat template"
NO_THOUGHTS = "reasoning is asked for by chat_template_kwargs, as the chat template has it"
ALL_SPECIAL = "special tokens are never part of texts"

LABELS: dict[str, Neutral] = {
    "metadata": Neutral(labels=(dict,)),
    "store": Neutral((False,), "nothing is stored"),
    "prompt_cache_key": LABEL,
    "prompt_cache_options": Neutral(labels=(dict,)),
    "prompt_cache_retention": LABEL,
    "safety_identifier": LABEL,
    "service_tier": Neutral(("auto", "default"), "there is one tier"),
    "request_id": LABEL,
    "cache_salt": LABEL,
    "priority": Neutral((0,), "requests have no priorities"),
}
"""Parameters that label a request and do not affect its answer."""

SAMPLING: dict[str, Neutral] = {
    "best_of": Neutral((1,), "every generated choice is returned", same_as="n"),
    "presence_penalty": Neutral((0,), NO_PENALTY),
    "frequency_penalty": Neutral((0,), NO_PENALTY),
    "repetition_penalty": Neutral((1,), NO_PENALTY),
    "no_repeat_ngram_size": Neutral((0,), NO_PENALTY),
    "length_penalty": Neutral((1,), "max_tokens says how long a text is"),
    "early_stopping": Neutral((False,), "there is no beam search"),
    "use_beam_search": Neutral((False,), "there is no beam search"),
    "top_k": Neutral((-1, 0), NO_TRUNCATION),
    "min_p": Neutral((0,), NO_TRUNCATION),
    "top_a": Neutral((0,), NO_TRUNCATION),
    "typical_p": Neutral((1,), NO_TRUNCATION),
    "min_tokens": Neutral((0,), "ignore_eos has the whole canvas filled"),
    "stop_token_ids": Neutral(([],), "stop takes texts"),
    "bad_words": Neutral(([],), "logit_bias of -100 forbids a token"),
    "allowed_token_ids": Neutral((), "logit_bias of -100 forbids a token"),
    "include_stop_str_in_output": Neutral((False,), "a text ends before its stop string"),
    "skip_special_tokens": Neutral((True,), ALL_SPECIAL),
    "spaces_between_special_tokens": Neutral((True, False), ALL_SPECIAL),
    "detokenize": Neutral((True,), "answers are texts"),
    "prompt_logprobs": Neutral((), "use echo with logprobs on /v1/completions"),
    "return_tokens_as_token_ids": Neutral((False,), "POST /tokenize returns ids"),
    "return_token_ids": Neutral((False,), "POST /tokenize returns ids"),
    "truncate_prompt_tokens": Neutral((), "a prompt is never cut"),
    "guided_grammar": Neutral((), NOT_REGULAR),
    "guided_decoding_backend": Neutral(labels=(str,)),
    "guided_whitespace_pattern": Neutral((), "there are as few blanks as there can be"),
    "logits_processors": Neutral(([],), "programs in requests are not run"),
    "kv_transfer_params": Neutral((), "there is no KV cache to transfer"),
    "vllm_xargs": Neutral(({},), "no further arguments are supported"),
    "class_label": Neutral((), "this route makes text"),
    "class_labels": Neutral((), "this route makes text"),
    "trajectory_guesses": Neutral((False,), "/v1/diffusion/trajectories has it"),
}
"""Parameters of text generation in other servers."""

TEXT = {**LABELS, **SAMPLING}

COMPLETION: dict[str, Neutral] = {
    **TEXT,
    "add_special_tokens": Neutral((True,), "a prompt of token ids has none added"),
    "prompt_embeds": Neutral((), "prompts are texts or token ids"),
}

CHAT: dict[str, Neutral] = {
    **TEXT,
    "functions": Neutral(([],), "use tools", off=("function_call", "none")),
    "function_call": Neutral(("none", "auto"), "use tool_choice"),
    "modalities": Neutral((["text"],), NO_SOUND),
    "audio": Neutral((), NO_SOUND),
    "moderation": Neutral((), "there is no moderation"),
    "prediction": Neutral((), "/v1/completions with infill takes a text with holes"),
    "reasoning_effort": Neutral(("none",), NO_THOUGHTS),
    "include_reasoning": Neutral((True, False), NO_THOUGHTS),
    "verbosity": Neutral(("medium",), "max_tokens says how long an answer is"),
    "web_search_options": Neutral((), "nothing is looked up"),
    "documents": Neutral(([],), NO_TEMPLATE),
    "chat_template": Neutral((), NO_TEMPLATE),
    "mm_processor_kwargs": Neutral(({},), NO_SOUND),
    "add_generation_prompt": Neutral((True,), NO_TEMPLATE),
    "continue_final_message": Neutral((False,), NO_TEMPLATE),
    "add_special_tokens": Neutral((False,), NO_TEMPLATE),
    "echo": Neutral((False,), "/v1/completions has it"),
    "suffix": Neutral((), "/v1/completions has it"),
}


def constraints(instead: str) -> dict[str, Neutral]:
    """Fields that constrain texts, for routes that have another."""
    return {
        "response_format": Neutral(({"type": "text"},), f"use {instead}"),
        **{
            name: Neutral((), f"use {instead}, or response_format of /v1/chat/completions")
            for name in ("structured_outputs", "guided_json", "guided_regex", "guided_choice")
        },
    }


ONE_ANSWER = "one answer is made; /v1/chat/completions makes several"
NOTHING_KEPT = "nothing is stored"
RESPONSES: dict[str, Neutral] = {
    **{name: of for name, of in LABELS.items() if name != "metadata"},
    **SAMPLING,
    **constraints("text.format"),
    "access_programs": Neutral(({},), "there is one program"),
    "background": Neutral((False,), NOTHING_KEPT),
    "background_options": Neutral(({},), NOTHING_KEPT),
    "context_management": Neutral(([],), "a prompt is never cut"),
    "conversation": Neutral((), NOTHING_KEPT),
    "image": Neutral(({},), NO_SOUND),
    "include": Neutral(([],), "the answer is its text; /v1/chat/completions has logprobs"),
    "diffusing": Neutral((False,), "/v1/chat/completions has it"),
    "max_tokens": Neutral((), "use max_output_tokens"),
    "max_tool_calls": Neutral((), "parallel_tool_calls: false allows one call"),
    "messages": Neutral((), "use input"),
    "moderation": Neutral((), "there is no moderation"),
    "n": Neutral((1,), ONE_ANSWER),
    "stop": Neutral((), "/v1/chat/completions has it"),
    "trajectory": Neutral(("none",), "/v1/chat/completions has it"),
    "previous_response_id": Neutral((), f"{NOTHING_KEPT}; send all messages as input"),
    "prompt": Neutral((), "templates of prompts are not kept"),
    "reasoning": Neutral(({},), NO_THOUGHTS),
    "top_logprobs": Neutral((0,), "/v1/chat/completions has logprobs"),
    "truncation": Neutral(("disabled",), "a prompt is never cut"),
}
MESSAGES: dict[str, Neutral] = {
    **{name: of for name, of in SAMPLING.items() if name != "top_k"},
    **constraints("output_config.format"),
    "cache_control": Neutral(labels=(dict,)),
    "container": Neutral((), "programs are not run"),
    "diagnostics": Neutral((), "there are no diagnostics"),
    "diffusing": Neutral((False,), "/v1/chat/completions has it"),
    "inference_geo": LABEL,
    "mcp_servers": Neutral(([],), "tools are called by the client"),
    "metadata": Neutral(labels=(dict,)),
    "n": Neutral((1,), ONE_ANSWER),
    "service_tier": Neutral(("auto", "standard_only"), "there is one tier"),
    "speed": Neutral(("standard",), "latency_budget_ms makes answers faster"),
    "stop": Neutral((), "use stop_sequences"),
    "trajectory": Neutral(("none",), "/v1/chat/completions has it"),
    "thinking": Neutral(({"type": "disabled"},), NO_THOUGHTS),
    "top_k": Neutral((0, -1), NO_TRUNCATION),
    "user_profile_id": LABEL,
    "workspace_id": LABEL,
}

ONE_STYLE = "the model has one quality and style"
IMAGE: dict[str, Neutral] = {
    **LABELS,
    "quality": Neutral(("auto",), ONE_STYLE),
    "background": Neutral(("auto", "opaque"), "images have no transparency"),
    "moderation": Neutral(("auto", "low"), "there is no moderation"),
    "output_compression": Neutral((100,), "images lose nothing"),
    "style": Neutral((), ONE_STYLE),
    "complexity": Neutral((), ONE_STYLE),
    "frame_count": Neutral((1,), "an image has one frame"),
    "frame_duration_ms": Neutral((), "an image has one frame"),
    "svg": Neutral((), "images are made of pixels"),
    "diffusing": Neutral((False,), "use partial_images"),
    "class_labels": Neutral((), "/v1/diffusion/trajectories has it"),
}
