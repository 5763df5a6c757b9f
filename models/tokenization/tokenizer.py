"""Text to ids and back."""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from itertools import takewhile
from pathlib import Path
from typing import Any

from tokenizers import Encoding, Tokenizer

from models.tokenization.chat_template import ChatError, ChatTemplate
from models.tokenization.spans import ByteTable, Token
from models.tokenization.template_tokens import Pieces
from models.tokenization.token_bounds import growth, longest_piece

LONG = 4096  # characters or ids that are worth letting other threads run meanwhile
TEXT_FILES = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja")
"""Files of a folder that are read."""
TRIED = 1 << 18  # ids of a file that are written once before it is taken
LONGEST_WORD = 256  # characters; WordPiece takes time with their square
MOST_GROWTH = 64  # times a normalizer may make a text longer
LONGEST_REASON = 200  # characters of an error that are told
THOUGHTS = ("<|channel>", "<channel|>")
"""Special tokens around what Gemma's models think."""
END_OF_TURN = ("<|eot_id|>", "<|im_end|>")


class TokenizerError(ValueError):
    """The tokenizer's own library fails over a text, over ids or over its file."""


@contextmanager
def _library(doing: str) -> Generator[None]:
    """Calls of the tokenizer's library: it raises bare Exception, and where its native code panics
    what no ``except Exception`` catches.

    Raises:
        TokenizerError: in place of both.
    """
    try:
        yield
    except BaseException as error:
        if type(error) is not Exception and type(error).__name__ != "PanicException":
            raise
        reason = " ".join(str(error).split())[:LONGEST_REASON]
        raise TokenizerError(f"the tokenizer cannot {doing}: {reason}") from None


class TextTokenizer:
    """A checkpoint's ``tokenizer.json``, used so that text stays text.

    A prompt that spells out a special token ("<|mdm_mask|>") is encoded as the characters it is
    made of: special ids come only from the tokenizer's own template (the start token).

    Attributes:
        start: ids that it puts in front of a text.
        chat: the checkpoint's chat template, if it has one.
        mask_id: id that no text may become, also where the file does not mark it as special.
    """

    def __init__(
        self, tokenizer: Tokenizer, chat: ChatTemplate | None = None, mask_id: int | None = None
    ) -> None:
        """Padding and truncation are switched off: a file may have been saved with them on.

        Raises:
            TokenizerError: it cannot read or write the simplest texts.
        """
        tokenizer.no_padding()
        tokenizer.no_truncation()
        self._tokenizer = tokenizer
        self.chat = chat
        self.mask_id = mask_id
        self._tokenizer.encode_special_tokens = True
        added = tokenizer.get_added_tokens_decoder()
        self._special = {i: t.content for i, t in added.items() if t.special}
        with _library("read a letter"):
            word = tokenizer.encode("a", add_special_tokens=False).ids
            opened = tokenizer.encode("a").ids
        self.start = list(takewhile(lambda id_: id_ in self._special, opened))
        names = (tokenizer.token_to_id(f"<0x{byte:02X}>") for byte in range(256))
        self._bytes = {id_ for id_ in names if id_ is not None}
        with _library("be described"):
            self._longest = longest_piece(tokenizer)
        self._table = ByteTable(tokenizer, self._special, self.decode, word)

    @classmethod
    def load(cls, path: Path, mask_id: int | None = None) -> TextTokenizer:
        """Read a ``tokenizer.json``, and the chat template beside it if there is one.

        Args:
            path: of the file.
            mask_id: id of the model's mask, if it has one.

        Raises:
            ValueError: the file is not a tokenizer, or the template no template.
        """
        try:
            with _library("be read"):
                tokenizer = Tokenizer.from_file(str(path))
                _check(tokenizer)
            read = cls(tokenizer, ChatTemplate.load(path.parent), mask_id)
            with _library("write each of its ids"):
                ids = [*tokenizer.get_vocab().values()][:TRIED]
                tokenizer.decode_batch([[id_] for id_ in ids])
        except TokenizerError as error:
            raise ValueError(f"{path.name}: {error}") from None
        tokenizer.post_processor = None  # ``start`` is all that is wanted of it
        return read

    @property
    def vocab_size(self) -> int:
        """Number of ids, special ones included, if none is left out."""
        largest = max(self._tokenizer.get_vocab().values(), default=-1)
        return max(self._tokenizer.get_vocab_size(), largest + 1)

    def encode(self, text: str, start: bool = True) -> list[int]:
        """Ids of a prompt, the start token in front where the checkpoint has one and ``start`` asks
        for it. Nothing else that its file adds to a text is added.

        Raises:
            UnicodeEncodeError: the text holds lone surrogates.
            TokenizerError: the library cannot read it.
        """
        ids = self._encoded(text).ids
        if self.mask_id in ids:
            raise TokenizerError("the text spells out the mask token, which no text may contain")
        return [*self.start, *ids] if start else ids

    def count(self, text: str, start: bool = True) -> int:
        """Number of ids that ``encode`` gives, without making a list of them: a list of a million
        would hold up all Python threads. A mask in the text is found by ``encode`` alone.

        Raises:
            UnicodeEncodeError: the text holds lone surrogates.
            TokenizerError: the library cannot read it.
        """
        return len(self._encoded(text)) + (len(self.start) if start else 0)

    def at_least(self, text: str) -> int:
        """How many ids a text has at the very least, by its bytes alone; 0 where the tokenizer's
        file proves nothing. Takes a millisecond for a mebibyte, where ``count`` takes a second.

        Raises:
            UnicodeEncodeError: the text holds lone surrogates.
        """
        return -(-len(text.encode()) // self._longest) if self._longest else 0

    def _encoded(self, text: str) -> Encoding:
        text.encode()
        with _library("read this text"):
            if len(text) < LONG:
                encoded = self._tokenizer.encode(text, add_special_tokens=False)
            else:  # unlike encode, this lets other Python threads run meanwhile
                encoded = self._tokenizer.encode_batch_fast([text], add_special_tokens=False)[0]
        return encoded

    def opening(self, ids: Sequence[int]) -> int:
        """How many of the first ids are those that open a text: all of ``start``, or none."""
        count = len(self.start)
        return count if list(ids[:count]) == self.start else 0

    def encode_behind(self, text: str) -> list[int]:
        """Ids of a text that stands behind another, no start token and no added blank in front.

        Raises:
            UnicodeEncodeError: the text holds lone surrogates.
        """
        # a line break never merges with what follows it, so it can be taken off again
        anchor = self.encode("\n", start=False)
        ids = self.encode("\n" + text, start=False)
        if ids[: len(anchor)] == anchor:
            return ids[len(anchor) :]
        return self.encode(text, start=False)

    def encode_chat(self, messages: Sequence[Mapping[str, Any]]) -> list[int]:
        """Ids of a conversation by the checkpoint's template, up to where the answer begins.

        Raises:
            ChatError: no template, or one that refuses the messages.
            UnicodeEncodeError: a message holds lone surrogates.
        """
        return self.encode_pieces(self.submit_chat(messages).result())

    def submit_chat(
        self,
        messages: Sequence[Mapping[str, Any]],
        tools: Sequence[Mapping[str, Any]] = (),
        settings: Mapping[str, Any] | None = None,
    ) -> Future[Pieces]:
        """A conversation to the checkpoint's template, on its thread; for ``encode_pieces``. See
        ``ChatTemplate.render``.

        Raises:
            ChatError: no template. The future raises as ``ChatTemplate.render``.
            ChatBusy: too many wait for it.
        """
        if self.chat is None:
            raise ChatError("this checkpoint has no chat template")
        return self.chat.submit(messages, list(self._special.values()), tools, settings)

    def encode_pieces(self, pieces: Pieces) -> list[int]:
        """Ids of what a chat template wrote.

        Raises:
            UnicodeEncodeError: lone surrogates.
        """
        special_ids = {text: id_ for id_, text in self._special.items()}
        ids: list[int] = []
        for text, special in pieces:
            if special:
                ids.append(special_ids[text])
            else:
                ids.extend(self.encode(text, start=False))
        return ids

    @property
    def end_of_turn(self) -> int | None:
        """Id of the token that ends a turn of a conversation, if there is one."""
        ids = {text: id_ for id_, text in self._special.items()}
        return next((ids[text] for text in END_OF_TURN if text in ids), None)

    @property
    def thoughts(self) -> tuple[int, int] | None:
        """Ids of the special tokens around what a model thinks, if it has such."""
        ids = {text: id_ for id_, text in self._special.items()}
        begin, end = (ids.get(text) for text in THOUGHTS)
        return None if begin is None or end is None else (begin, end)

    def is_special(self, text: str) -> bool:
        """Whether a text is the name of a special token, which leaves no trace in texts."""
        return text in self._special.values()

    def decode(self, ids: Sequence[int]) -> str:
        """Text of ids; special tokens leave no trace.

        Raises:
            TokenizerError: the library cannot write it.
        """
        with _library("write these ids"):
            if len(ids) < LONG:
                return self._tokenizer.decode(list(ids), skip_special_tokens=True)
            # unlike decode, this lets other Python threads run meanwhile
            return self._tokenizer.decode_batch([list(ids)], skip_special_tokens=True)[0]

    def continuation(self, prompt: Sequence[int], ids: Sequence[int]) -> str:
        """Text that ids add behind a prompt, the blank between them included."""
        before = self.decode(prompt)
        whole = self.decode([*prompt, *ids])  # may read the prompt's last characters anew
        return whole[len(common_prefix(before, whole)) :]

    def steady(self, ids: Sequence[int]) -> int:
        """How many of the leading ids read the same whatever follows, an unfinished character at
        their end aside.

        A run of byte tokens is read as a whole, across special tokens: one that is no UTF-8 spoils
        them all.
        """
        count = len(ids)
        while count and (ids[count - 1] in self._bytes or ids[count - 1] in self._special):
            count -= 1
        return count

    def tokens(self, before: Sequence[int], ids: Sequence[int], text: str) -> list[Token]:
        """Ids as tokens of the text that they add behind others, see ``continuation``."""
        return list(self._table.tokens(before, ids, text))

    def labels(self, ids: Sequence[int]) -> list[str]:
        """The tokens of the text that ids make, each by its text."""
        return [token.label for token in self._table.tokens((), ids, self.decode(ids))]

    def tokens_of(self, ids: Sequence[int], text: str) -> list[Token]:
        """The ids of a text as its tokens; the text may be another than its ids are read as."""
        if self.decode(ids) == text:
            return list(self._table.tokens((), ids, text))
        return list(self._table.alike(ids, text))

    def token(self, id_: int) -> Token:
        """One id as it stands inside a text."""
        return self._table.alone(id_)

    def data(self, id_: int) -> bytes:
        """The bytes that one id adds to a text: none if it is special."""
        return self._table.of(id_).data

    def texts(self, vocab_size: int) -> dict[int, bytes] | None:
        """The bytes that each of the first ids adds to a text, of those that add some; None where
        texts are not made of the tokens' bytes.
        """
        if not self._table.exact:
            return None
        data = {id_: self._table.of(id_).data for id_ in range(min(vocab_size, self.vocab_size))}
        return {id_: text for id_, text in data.items() if text and id_ != self.mask_id}

    def piece(self, id_: int) -> str:
        """Text of one id as it stands inside a text (" king", not "king"); a special one's name."""
        return self._special.get(id_) or self.data(id_).decode(errors="replace")


def _check(tokenizer: Tokenizer) -> None:
    """Refuse what takes time or memory beyond all measure.

    Raises:
        TokenizerError: it does.
    """
    word = getattr(tokenizer.model, "max_input_chars_per_word", 0)
    if word > LONGEST_WORD:
        limit = f"max_input_chars_per_word is {word}; the limit is {LONGEST_WORD}"
        raise TokenizerError(f"the tokenizer cannot be used: {limit}")
    if tokenizer.normalizer and (times := growth(tokenizer.normalizer)) > MOST_GROWTH:
        limit = f"its normalizer makes a text up to {times} times as long; the limit is"
        raise TokenizerError(f"the tokenizer cannot be used: {limit} {MOST_GROWTH}")


def common_prefix(one: str, other: str) -> str:
    """The longest text that both texts begin with."""
    if other.startswith(one):
        return one
    pairs = enumerate(zip(one, other, strict=False))
    return one[: next((i for i, (a, b) in pairs if a != b), len(other))]
