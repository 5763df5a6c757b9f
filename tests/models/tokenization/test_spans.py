"""Tokens as bytes of a text: they add up to it, and lie where they say."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from models.bundled import BUNDLED
from models.tokenization.tokenizer import TextTokenizer
from tests.support.effort import count

END = AddedToken("<|end|>", special=True)


def by_byte() -> Tokenizer:
    """In the manner of GPT-2 and LLaDA; some pieces are parts of characters."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    more = ["Ã©", "©a", "ðŁ", "Ļ", "ĠÃ", "Ġa", "æĹ¥", "âĢ", "\u00a0 raw"]
    vocab = {piece: i for i, piece in enumerate(dict.fromkeys([*letters, *more]))}
    made = Tokenizer(models.BPE(vocab, [("Ã", "©"), ("Ġ", "a")]))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    made.add_special_tokens([END])
    return made


def by_piece(strip: int = 1) -> Tokenizer:
    """In the manner of LLaMA: pieces with blanks in front, and single bytes for all else."""
    pieces = ["▁a", "▁", "n", "é", "日", "\N{REPLACEMENT CHARACTER}", "▁▁"]
    pieces += [f"<0x{byte:02X}>" for byte in range(256)]
    made = Tokenizer(models.BPE({piece: i for i, piece in enumerate(pieces)}, []))
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    made.decoder = decoders.Sequence([*steps, decoders.Strip(" ", strip, 0)])
    made.add_special_tokens([END])
    return made


def by_meta() -> Tokenizer:
    """In the manner of T5."""
    pieces = ["▁a", "▁", "n", "é", "日", "b▁", "▁▁a"]
    made = Tokenizer(models.BPE({piece: i for i, piece in enumerate(pieces)}, []))
    made.decoder = decoders.Metaspace()
    made.add_special_tokens([END])
    return made


def by_word() -> Tokenizer:
    """In the manner of BERT."""
    words = ("[UNK]", "do", "n", "'", "t", "s", ".", ",", "!", "##ing", "##s", "it")
    vocab = {word: i for i, word in enumerate(words)}
    made = Tokenizer(models.WordPiece(vocab, unk_token="[UNK]"))
    made.decoder = decoders.WordPiece(cleanup=True)
    made.add_special_tokens([END])
    return made


def without_decoder() -> Tokenizer:
    """Tokens are joined by blanks."""
    made = by_word()
    made.decoder = None  # type: ignore[assignment]
    return made


EXACT = {
    "stories": Tokenizer.from_file(str(BUNDLED / "stories" / "tokenizer.json")),
    "bytes": by_byte(),
    "pieces": by_piece(),
    "pieces, two blanks off": by_piece(2),
}
OTHERS = {"meta": by_meta(), "words": by_word(), "no decoder": without_decoder()}
READ = {name: TextTokenizer(made) for name, made in {**EXACT, **OTHERS}.items()}


def some_ids(name: str, draw) -> list[int]:
    """Random ids, or those of a text."""
    size = READ[name].vocab_size
    if draw(st.booleans()):
        text = draw(st.text(alphabet="ab \u00a0é日🐉€\n", max_size=12))
        return READ[name].encode(text, start=False)
    few = st.integers(0, min(size, 24) - 1) | st.integers(size - 8, size - 1)
    return draw(st.lists(few | st.integers(0, size - 1), max_size=16))


@pytest.mark.parametrize("name", READ)
@settings(max_examples=count(40, 300), deadline=None)
@given(data=st.data())
def test_tokens_of_any_ids_lie_in_order_and_where_they_say(name, data):
    read, before, ids = READ[name], some_ids(name, data.draw), some_ids(name, data.draw)
    text = read.continuation(before, ids)
    tokens = read.tokens(before, ids, text)
    assert [token.id for token in tokens] == ids
    for one, other in pairwise(tokens):
        assert one.start <= other.start and one.end <= other.end
    for token in tokens:
        assert 0 <= token.start <= token.end <= len(text)
        if token.data is None:
            assert token.special
        elif token.text is not None:
            assert text[token.start : token.end] == token.text
    joined = b"".join(token.data or b"" for token in tokens)
    if "\N{REPLACEMENT CHARACTER}" not in read.decode(before) + text:
        assert joined == text.encode()
    if name == "bytes" and not before:
        assert joined.decode(errors="replace") == text


@pytest.mark.parametrize("name", ["stories", "bytes", "pieces"])
@settings(max_examples=count(20, 100), deadline=None)
@given(text=st.text(max_size=20) | st.text(alphabet="Caf\u00e9 日本語🐉  .", max_size=20))
def test_tokens_of_a_text_are_its_bytes(name, text):
    read = READ[name]
    ids = read.encode(text)
    text = read.decode(ids)
    for tokens in (read.tokens((), ids, text), read.tokens_of(ids, text)):
        assert b"".join(token.data or b"" for token in tokens) == text.encode()


def test_a_character_of_several_tokens_is_named_by_its_bytes():
    tokens = READ["stories"].tokens_of(READ["stories"].encode("Café au lait"), "Café au lait")
    shown = [(token.label, token.start) for token in tokens if token.data is not None]
    assert shown[:5] == [("C", 0), ("af", 1), (r"bytes:\xc3", 3), (r"bytes:\xa9", 3), (" a", 4)]
    assert tokens[3].data == b"\xc3" and tokens[3].end == 4


def test_a_text_that_is_read_otherwise_still_has_all_its_characters():
    """For example a text in capitals, where the tokenizer has none."""
    read = READ["words"]
    ids = [*read.encode("do it do"), read.vocab_size - 1]
    tokens = read.tokens_of(ids, "DO it!, do")
    assert "".join(token.text or "" for token in tokens if not token.special) == "DO it!, do"
    assert tokens[-1].start == tokens[-1].end == 10


def test_a_token_is_cut_to_its_characters():
    [token] = READ["bytes"].tokens_of(READ["bytes"].encode("é"), "é")
    assert token.cut(0, 1) == token
    assert token.cut(0, 0).data == b"" and token.cut(0, 0).end == 0
