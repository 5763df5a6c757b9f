"""Chat templates: messages to token ids, and nothing that a person writes is a special token."""

from __future__ import annotations

import re
import secrets
from collections.abc import Mapping, Sequence
from pathlib import Path

from jinja2.exceptions import TemplateError
from jinja2.sandbox import ImmutableSandboxedEnvironment

from models.weights import read_json

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
        except RecursionError:
            raise ValueError("chat template: nested too deeply") from None
        self.source = source
        self._variables = dict(variables)

    @classmethod
    def load(cls, folder: Path) -> ChatTemplate | None:
        """The template of a checkpoint folder, if it has one.

        Raises:
            CheckpointError: ``tokenizer_config.json`` is damaged.
            ValueError: it has one that cannot be read.
        """
        config = read_json(folder / "tokenizer_config.json", required=False)
        source = config.get("chat_template")
        if (folder / "chat_template.jinja").is_file():
            try:
                source = (folder / "chat_template.jinja").read_text(encoding="utf-8")
            except UnicodeDecodeError as error:
                raise ValueError(f"chat_template.jinja: {error}") from None
        if isinstance(source, list):  # several by name
            try:
                source = {entry["name"]: entry["template"] for entry in source}.get("default")
            except (TypeError, KeyError):
                raise ValueError("chat_template: entries have a name and a template") from None
        if source is None:
            return None
        if not isinstance(source, str):
            raise ValueError("chat_template must be a text")
        texts: dict[str, str] = {}
        for name in TOKEN_NAMES:
            token = config.get(name)
            text = token.get("content") if isinstance(token, dict) else token or ""
            if not isinstance(text, str):
                raise ValueError(f"{name} of tokenizer_config.json is no text")
            if text:
                texts[name] = text
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
