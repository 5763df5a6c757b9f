"""Chat templates: messages to token ids, and nothing that a person writes is a special token."""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2.exceptions import TemplateError
from jinja2.sandbox import ImmutableSandboxedEnvironment

TOKEN_NAMES = ("bos_token", "eos_token", "pad_token", "unk_token", "mask_token")


class ChatError(ValueError):
    """Messages that the checkpoint's template refuses."""


class ChatTemplate:
    """A checkpoint's own template (Jinja, sandboxed), from ``chat_template.jinja`` or
    ``tokenizer_config.json``.
    """

    def __init__(self, source: str, variables: Mapping[str, str]) -> None:
        """``variables`` are the names of special tokens that the template may use.

        Raises:
            ValueError: the source is not a template.
        """
        environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
        environment.globals["raise_exception"] = _refuse
        try:
            self._template = environment.from_string(source)
        except TemplateError as error:
            raise ValueError(f"chat template: {error}") from None
        self.source = source
        self._variables = dict(variables)

    @classmethod
    def load(cls, folder: Path) -> ChatTemplate | None:
        """The template of a checkpoint folder, if it has one.

        Raises:
            ValueError: it has one that cannot be read.
        """
        config: Any = {}
        if (folder / "tokenizer_config.json").is_file():
            config = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
        if not isinstance(config, dict):
            raise ValueError("tokenizer_config.json: expected a JSON object")
        source = config.get("chat_template")
        if (folder / "chat_template.jinja").is_file():
            source = (folder / "chat_template.jinja").read_text(encoding="utf-8")
        if isinstance(source, list):  # several by name; the first is what chat uses
            named = {entry["name"]: entry["template"] for entry in source}
            source = named.get("default")
        if not isinstance(source, str):
            return None
        found = {name: config.get(name) for name in TOKEN_NAMES}
        texts = {n: t["content"] if isinstance(t, dict) else t for n, t in found.items() if t}
        return cls(source, texts)

    def render(
        self, messages: Sequence[Mapping[str, str]], special: Sequence[str]
    ) -> list[tuple[str, bool]]:
        """The conversation as pieces of text, in order; true marks a special token.

        A message that spells out a special token is interrupted there while the template runs, so
        that only the template's own tokens are found in its output.

        Raises:
            ChatError: the template refuses the messages.
        """
        guard = f"\ue000{secrets.token_hex(8)}\ue001"
        spelled = re.compile("|".join(map(re.escape, sorted(special, key=len, reverse=True))))

        def shielded(text: str) -> str:
            return spelled.sub(lambda m: m[0][0] + guard + m[0][1:], text) if special else text

        safe = [{k: shielded(v) for k, v in message.items()} for message in messages]
        try:
            text = self._template.render(
                messages=safe, add_generation_prompt=True, **self._variables
            )
        except ChatError:
            raise
        except Exception as error:  # a template may fail in any way that Python can
            raise ChatError(f"the chat template cannot take these messages: {error}") from None
        if not special:
            return [(text.replace(guard, ""), False)]
        pieces = re.split(f"({spelled.pattern})", text)
        marked = [(piece.replace(guard, ""), i % 2 == 1) for i, piece in enumerate(pieces)]
        return [piece for piece in marked if piece[0]]


def _refuse(message: str) -> None:
    raise ChatError(str(message))
