"""Parameters of OpenAI's SDK and of vLLM that are accepted where they change nothing: at which
values, and why they are refused at others. Null is one of the values of each.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Neutral:
    """A parameter that is not honoured.

    Attributes:
        values: those that change nothing.
        why: it is refused at others.
        labels: types of whose values any is accepted and none used.
        same_as: a field of the body whose value is accepted too.
        off: a field of the body and the value of it that makes any value of this one say nothing.
    """

    values: tuple[Any, ...] = ()
    why: str = ""
    labels: tuple[type, ...] = ()
    same_as: str | None = None
    off: tuple[str, Any] | None = None

    def allows(self, value: Any, body: Mapping[str, Any]) -> bool:
        """Whether it changes nothing in a body. True is not 1, nor false 0."""
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
        """The end of a refusal."""
        return f": {self.why}" if self.why else ""

    def schema(self) -> dict[str, Any]:
        """For the specification."""
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
    """Whether it is null, false, empty, or an object of nulls: what programs write for nothing."""
    if isinstance(value, dict):
        return all(part is None for part in value.values())
    return value is None or value is False or value in ("", [])


LABEL = Neutral(labels=(str,))
NO_TOOLS = "these models call no tools"
NO_SOUND = "these models read and write text only"
NO_GRAMMAR = "a canvas is not written in order, so that no grammar can bind it"
NO_PENALTY = "counts of earlier tokens mean nothing where all positions are written at once"
NO_TRUNCATION = "temperature and top_p shape what is drawn"
NO_TEMPLATE = "conversations take the checkpoint's own template"
NO_THOUGHTS = "these models write no thoughts apart from their answer"
ALL_SPECIAL = "special tokens leave no trace in texts"

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
    "priority": Neutral((0,), "requests are taken in the order in which they come"),
}
"""What says something of a request and nothing of its answer."""

SAMPLING: dict[str, Neutral] = {
    "best_of": Neutral((1,), "every choice that is made is told", same_as="n"),
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
    "prompt_logprobs": Neutral((), "echo with logprobs tells those of a prompt"),
    "return_tokens_as_token_ids": Neutral((False,), "POST /tokenize tells ids"),
    "return_token_ids": Neutral((False,), "POST /tokenize tells ids"),
    "truncate_prompt_tokens": Neutral((), "a prompt is never cut"),
    "response_format": Neutral(({"type": "text"},), NO_GRAMMAR),
    "structured_outputs": Neutral((), NO_GRAMMAR),
    "guided_json": Neutral((), NO_GRAMMAR),
    "guided_regex": Neutral((), NO_GRAMMAR),
    "guided_choice": Neutral((), NO_GRAMMAR),
    "guided_grammar": Neutral((), NO_GRAMMAR),
    "guided_decoding_backend": Neutral((), NO_GRAMMAR),
    "logits_processors": Neutral(([],), "requests bring no programs"),
    "kv_transfer_params": Neutral((), "there is no cache to hand on"),
    "vllm_xargs": Neutral(({},), "there are none to take"),
    "class_label": Neutral((), "this route makes text"),
}
"""What shapes a text elsewhere."""

TEXT = {**LABELS, **SAMPLING}

COMPLETION: dict[str, Neutral] = {
    **TEXT,
    "add_special_tokens": Neutral((True,), "a prompt of token ids has none added"),
    "prompt_embeds": Neutral((), "prompts are texts or token ids"),
}

CHAT: dict[str, Neutral] = {
    **TEXT,
    "tools": Neutral(([],), NO_TOOLS, off=("tool_choice", "none")),
    "tool_choice": Neutral(("none", "auto"), NO_TOOLS),
    "parallel_tool_calls": Neutral((True, False), NO_TOOLS),
    "functions": Neutral(([],), NO_TOOLS, off=("function_call", "none")),
    "function_call": Neutral(("none", "auto"), NO_TOOLS),
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
    "chat_template_kwargs": Neutral(({},), NO_TEMPLATE),
    "mm_processor_kwargs": Neutral(({},), NO_SOUND),
    "add_generation_prompt": Neutral((True,), NO_TEMPLATE),
    "continue_final_message": Neutral((False,), NO_TEMPLATE),
    "add_special_tokens": Neutral((False,), NO_TEMPLATE),
    "echo": Neutral((False,), "/v1/completions has it"),
    "suffix": Neutral((), "/v1/completions has it"),
}

ONE_SIZE = "the model draws in one way"
IMAGE: dict[str, Neutral] = {
    **LABELS,
    "quality": Neutral(("auto",), ONE_SIZE),
    "background": Neutral(("auto", "opaque"), "images have no transparency"),
    "moderation": Neutral(("auto", "low"), "there is no moderation"),
    "output_compression": Neutral((100,), "images lose nothing"),
    "style": Neutral((), ONE_SIZE),
    "complexity": Neutral((), ONE_SIZE),
    "frame_count": Neutral((1,), "an image has one frame"),
    "frame_duration_ms": Neutral((), "an image has one frame"),
    "svg": Neutral((), "images are made of pixels"),
    "diffusing": Neutral((False,), "partial_images shows an image on its way"),
}
