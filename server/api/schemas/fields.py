"""What each field of a request body means, its bounds and an example: for the specification. The
routes check their bodies themselves; a test holds the two together.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from models.interface import ModelInfo
from sampler.params import MAX_INTEGER
from server.api.schemas import sampling
from server.config import Settings

Schema = dict[str, Any]
THE_CHECKPOINTS = "; the checkpoint's where it is not given"


def _said(description: str, example: Any, **bounds: Any) -> Schema:
    return {"description": description, "examples": [example], **bounds}


FIELDS: dict[str, Schema] = {
    **sampling.FIELDS,
    "model": _said("the served model's name; it may be left out", "stories"),
    "prompt": _said(
        "text, texts, token ids, or several lists of them; /tokenize takes one text",
        "Once upon a time",
        minItems=1,
    ),
    "messages": _said(
        "the conversation, for the checkpoint's chat template",
        [{"role": "user", "content": "Once upon a time"}],
    ),
    "suffix": _said("text that stands behind the answer and is kept", " The end."),
    "infill": _said("masks in a prompt of ids are filled too", False),
    "echo": _said("the prompt stands in front of the answer", False),
    "max_tokens": _said(f"positions to fill{THE_CHECKPOINTS}", 120, minimum=0),
    "max_completion_tokens": _said("as max_tokens", 120, minimum=0),
    "n": _said("choices for each prompt", 1),
    "ignore_eos": _said("end tokens end nothing: the whole canvas is the text", False),
    "stop": _said("the text ends before the first of these", ["\n"]),
    "user": _said("accepted, not used", "someone"),
    "stream": _said("answer as server-sent events", False),
    "stream_options": _said("with stream only", {"include_usage": True}),
    "logprobs": _said("tell log-probabilities, and of how many of the likeliest tokens", 2),
    "top_logprobs": _said("likeliest tokens told beside each; needs logprobs: true", 2),
    "logit_bias": _said("token ids to what is added to their logits", {"5": -100}),
    "latency_budget_ms": _said(
        "milliseconds from arrival within which the text is to be complete, if need be in fewer "
        "steps",
        500,
    ),
    "trajectory": _said("delta tells each step beside the text; needs stream", "none"),
    "diffusing": _said("the whole canvas as text at every step; needs stream", False),
    "class_label": _said("what an image is to show, by its number", 7, minimum=0),
    "size": _said("width x height; only the model's own", "auto"),
    "response_format": _said("images come in base64", "b64_json"),
    "output_format": _said("png where it is not given; neither loses anything", "png"),
    "partial_images": _said("images on the way to each; needs stream", 2),
    "format": _said("gif moves, png shows some states", "gif"),
    "runs": _said("trajectories, side by side", [{"events": []}], minItems=1, maxItems=4),
    "text": _said("what is scored: text or token ids", " named Lily.", minItems=1),
    "end": _said("the end token behind the text is scored too", False),
    "estimator": _said("nelbo: eq. 15 of the paper; llada: masks alone", "nelbo"),
    "samples": _said("Monte Carlo samples of a score", 32),
    "add_special_tokens": _said("put the start token in front of a prompt", True),
    "return_token_strs": _said("tell the text of each id too", False),
    "tokens": _said("ids", [1, 2, 3]),
}
"""By name, whichever body has them."""

PARTS: dict[str, dict[str, Schema]] = {
    "ImageBody": {"prompt": _said("the class, by its name or its number", "7")},
    "Message": {
        "role": _said("who says it; developer counts as system", "user"),
        "content": _said("a text, or its parts, a line for each", "Once upon a time"),
        "name": _said("accepted, not used", "someone"),
    },
    "Recorded": {
        "id": _said("its name, not used", "traj-0123456789abcdef01234567"),
        "events": _said("all its records, each with event and data", [], minItems=1),
    },
    "TextPart": {"type": _said("text only", "text"), "text": _said("a part", "Once")},
    "StreamOptions": {
        "include_usage": _said("a last chunk tells the usage", True),
        "continuous_usage_stats": _said("every chunk tells the usage so far", False),
    },
}
"""Fields of what bodies are made of."""


def by_settings(settings: Settings, infos: Sequence[ModelInfo]) -> dict[str, Schema]:
    """Bounds that are this server's own, of several models the widest; ``members`` are those of
    what lists hold, by type.
    """
    canvas = max(info.max_length for info in infos)
    ids = {"minimum": 0, "maximum": max(info.vocab_size for info in infos) - 1}
    names = [info.name for info in infos]
    counts = {"minimum": 0, "maximum": MAX_INTEGER}
    budgets = {"maxItems": settings.max_steps, "members": {"integer": counts}}
    return {
        "model": {"enum": [*names, None], "examples": names[:1]},
        "class_label": {"maximum": max(0, max(info.classes for info in infos) - 1)},
        "n": {"maximum": settings.max_choices},
        "steps": {"maximum": settings.max_steps},
        "max_tokens": {"maximum": canvas},
        "max_completion_tokens": {"maximum": canvas},
        "stop": {
            "maxItems": settings.max_stops,
            "members": {"string": {"maxLength": settings.max_stop_length}},
            "maxLength": settings.max_stop_length,
        },
        "topk_absorb": budgets,
        "topk_uniform": budgets,
        "samples": {"maximum": settings.max_score_samples},
        "text": {"members": {"integer": ids}},
        "tokens": {"members": {"integer": ids}},
        "prompt": {"members": {"integer": ids}},
    }
