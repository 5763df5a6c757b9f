"""Text that has settled: handed out piece by piece, it adds up to the whole, whatever the
tokenizer.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import takewhile

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from models.bundled import BUNDLED
from models.tokenization.spans import Token
from models.tokenization.tokenizer import TextTokenizer
from server.output.text import SettledText, text_of
from tests.support.effort import count


def vocab(*tokens: str) -> dict[str, int]:
    return {token: i for i, token in enumerate(["[end]", "[UNK]", *tokens])}


def byte_level() -> Tokenizer:
    """Every byte a token: most sequences are no valid UTF-8."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab(*alphabet), []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def byte_fallback() -> Tokenizer:
    """Like Llama's: words with blanks in front, and bytes for all else."""
    chars = [f"<0x{byte:02X}>" for byte in range(256)]
    tokenizer = Tokenizer(models.BPE(vocab("▁a", "▁the", "n", "é", "▁", *chars), []))
    replace, strip = decoders.Replace("▁", " "), decoders.Strip(" ", 1, 0)
    tokenizer.decoder = decoders.Sequence(
        [replace, decoders.ByteFallback(), decoders.Fuse(), strip]
    )
    return tokenizer


def word_piece() -> Tokenizer:
    """Like BERT's: blanks in front of punctuation come and go."""
    words = ("do", "n", "'", "t", "s", "m", "re", "ve", ".", ",", "!", "?", "##ing", "##s", "it")
    tokenizer = Tokenizer(models.WordPiece(vocab(*words), unk_token="[UNK]"))
    tokenizer.decoder = decoders.WordPiece(cleanup=True)
    return tokenizer


def end_of_word() -> Tokenizer:
    tokenizer = Tokenizer(models.BPE(vocab("he", "llo</w>", "a</w>", "b", ".</w>"), []))
    tokenizer.decoder = decoders.BPEDecoder("</w>")
    return tokenizer


TOKENIZERS = {
    "stories": Tokenizer.from_file(str(BUNDLED / "stories" / "tokenizer.json")),
    "byte level": byte_level(),
    "byte fallback": byte_fallback(),
    "word piece": word_piece(),
    "end of word": end_of_word(),
}


def ids_of(name: str, draw) -> list[int]:
    """Random ids; for real vocabularies also those of a text, which are mostly valid UTF-8."""
    size = TOKENIZERS[name].get_vocab_size()
    if name in ("stories", "byte level") and draw(st.booleans()):
        text = draw(st.text(alphabet="ab €🐉é", max_size=12))
        return TOKENIZERS[name].encode(text, add_special_tokens=False).ids
    few = st.integers(0, min(size, 24) - 1) | st.integers(0, size - 1)
    return draw(st.lists(few, max_size=20))


@pytest.mark.parametrize("name", TOKENIZERS)
@settings(max_examples=count(12, 150), deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_the_pieces_add_up_to_the_whole(tiny, name, data):
    text, info = TextTokenizer(TOKENIZERS[name]), replace(tiny.info, eos_id=0)
    checkpoint = replace(tiny, text=text, info=info)
    prompt, written = ids_of(name, data.draw), ids_of(name, data.draw) or [2]
    given_behind = ids_of(name, data.draw) if data.draw(st.booleans()) else []
    tokens = [*prompt, *written, *given_behind]
    editable = [False] * len(prompt) + [True] * len(written) + [False] * len(given_behind)
    free = text_of(checkpoint, tokens, editable).text
    stops = data.draw(st.lists(stop_strings(free), max_size=3))
    whole = text_of(checkpoint, tokens, editable, stops)
    settled = data.draw(st.lists(st.integers(0, len(tokens)), max_size=8).map(sorted))
    reader, sent = SettledText(checkpoint, editable, stops), ""
    told: list[Token] = []
    for upto in settled:
        # what has not settled yet may be anything
        hidden = data.draw(st.integers(0, 3))
        canvas = tokens[:upto] + [hidden] * (len(tokens) - upto)
        piece = reader.more(canvas, upto)
        sent += piece
        assert whole.text.startswith(sent)
        if "\N{REPLACEMENT CHARACTER}" not in whole.text:
            assert "\N{REPLACEMENT CHARACTER}" not in piece
        if piece and reader.text is not None:
            more = reader.text.tokens_from(len(told))
            told += takewhile(lambda token: token.end <= reader.characters, more)
    # the tokens that a stream tells are those of the whole text, and they are its bytes
    assert told == whole.tokens_from()[: len(told)]
    assert len(whole.tokens_from()) == len(whole.positions)
    assert [token.id for token in whole.tokens_from()] == [tokens[at] for at in whole.positions]
    if not prompt and "\N{REPLACEMENT CHARACTER}" not in whole.text:
        assert b"".join(t.data or b"" for t in whole.tokens_from()) == whole.text.encode()
    for token in whole.tokens_from():
        if token.data is not None and token.text is not None:
            assert whole.text[token.start :].startswith(token.text)
    assert sent + reader.last(whole.text) == whole.text
    for stop in stops:
        assert stop not in whole.text
    if whole.stopped:
        assert any(free[len(whole.text) :].startswith(stop) for stop in stops)


def test_the_stop_string_that_is_complete_first_ends_the_text(tiny):
    ids = tiny.tokenizer.encode("abcdef", start=False)
    written = [True] * len(ids)
    assert text_of(tiny, ids, written, ["abcdef", "bcde", "cd"]).text == "ab"
    assert text_of(tiny, ids, written, ["f", "ef"]).text == "abcd"


@pytest.mark.parametrize("name", ["stories", "byte level", "byte fallback"])
def test_the_tokens_before_a_stop_string_are_counted_whole(tiny, name):
    """A character of several tokens in front of it is one character and several tokens."""
    read = TextTokenizer(TOKENIZERS[name])
    checkpoint = replace(tiny, text=read, info=replace(tiny.info, eos_id=0))
    names = [f"<0x{byte:02X}>" for byte in "é🐉.".encode()]
    if name == "byte level":
        names = list("Ã©ðŁĲī.")
    vocabulary = TOKENIZERS[name].get_vocab()
    ids = [vocabulary[name] for name in names]
    found = text_of(checkpoint, ids, [True] * len(ids), ["."])
    assert found.text == "é🐉" and found.tokens == 6 and found.positions == (0, 1, 2, 3, 4, 5)
    found = text_of(checkpoint, ids, [True] * len(ids), ["🐉"])
    assert found.text == "é" and found.tokens == 2
    assert b"".join(token.data or b"" for token in found.tokens_from()) == "é".encode()


def test_a_token_that_reaches_into_a_stop_string_is_told_up_to_it(tiny):
    ids = tiny.tokenizer.encode("a king", start=False)
    found = text_of(tiny, ids, [True] * len(ids), ["ng"])
    assert found.text == "a ki" and found.tokens == len(ids)
    assert [token.label for token in found.tokens_from()] == ["a", " ki"]


def stop_strings(text: str):
    """Mostly such as come in the text."""
    anything = st.text(alphabet="ab ,.", min_size=1, max_size=3)
    if not text:
        return anything
    spans = st.tuples(st.integers(0, len(text) - 1), st.integers(1, 5))
    return anything | spans.map(lambda span: text[span[0] : span[0] + span[1]])
