"""Text to ids and back."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

from tokenizers import Tokenizer


class TextTokenizer:
    """A checkpoint's ``tokenizer.json``, used so that text stays text.

    A prompt that spells out a special token ("<|mdm_mask|>") is encoded as the characters it is
    made of: special ids come only from the tokenizer's own template (the start token).
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._tokenizer.encode_special_tokens = True
        added = tokenizer.get_added_tokens_decoder()
        self._special = {i: t.content for i, t in added.items() if t.special}
        self._anchor = tokenizer.encode("a", add_special_tokens=False).ids
        self._anchor_text = tokenizer.decode(self._anchor)
        self.piece = lru_cache(maxsize=1 << 16)(self._piece)

    @classmethod
    def load(cls, path: Path) -> TextTokenizer:
        """Read a ``tokenizer.json``.

        Raises:
            ValueError: the file is not a tokenizer.
        """
        try:
            return cls(Tokenizer.from_file(str(path)))
        except Exception as error:  # the library raises bare Exception
            raise ValueError(f"{path.name}: {error}") from None

    @property
    def vocab_size(self) -> int:
        """Number of ids, special ones included."""
        return self._tokenizer.get_vocab_size()

    def encode(self, text: str) -> list[int]:
        """Ids of a prompt, the start token in front where the checkpoint has one.

        Raises:
            UnicodeEncodeError: the text holds lone surrogates.
        """
        text.encode()
        return self._tokenizer.encode(text, add_special_tokens=True).ids

    def decode(self, ids: Sequence[int]) -> str:
        """Text of ids; special tokens leave no trace."""
        return self._tokenizer.decode(list(ids), skip_special_tokens=True)

    def continuation(self, prompt: Sequence[int], ids: Sequence[int]) -> str:
        """Text that ids add behind a prompt, the blank between them included."""
        before = self.decode(prompt)
        whole = self.decode([*prompt, *ids])
        if not whole.startswith(before):  # the prompt ends inside a character
            before = before.rstrip("\N{REPLACEMENT CHARACTER}")
        return whole[len(before) :]

    def _piece(self, id_: int) -> str:
        """Text of one id as it stands inside a text (" king", not "king")."""
        if id_ in self._special:
            return self._special[id_]
        text = self._tokenizer.decode([*self._anchor, id_])
        return text[len(self._anchor_text) :]
