"""Text to ids and back."""

from __future__ import annotations

import pytest

from models.bundled import BUNDLED
from models.tokenization.tokenizer import TextTokenizer


@pytest.fixture(scope="module")
def tokenizer():
    return TextTokenizer.load(BUNDLED / "stories" / "tokenizer.json")


def test_text_comes_back(tokenizer):
    for text in (
        "Once upon a time",
        'He said, "no!"\nThen',
        "Zoë ate 3 🐉s",
        " two  blanks ",
        "",
    ):
        assert tokenizer.decode(tokenizer.encode(text)) == text


def test_special_tokens_are_spelt_out(tokenizer):
    ids = tokenizer.encode("<|mdm_mask|><|endoftext|>")
    assert ids[0] == 0 and not {0, 1, 4453} & set(ids[1:])
    assert tokenizer.decode(ids) == "<|mdm_mask|><|endoftext|>"


def test_a_continuation_keeps_its_blank(tokenizer):
    prompt = tokenizer.encode("Once upon")
    more = tokenizer.encode("a time")[1:]
    assert tokenizer.continuation(prompt, more) == " a time"
    assert tokenizer.continuation([0], more) == "a time"


def test_pieces(tokenizer):
    ids = tokenizer.encode("a king")
    assert tokenizer.piece(ids[-1]) == " king"
    assert tokenizer.piece(4453) == "<|mdm_mask|>"


def test_transformers_reads_it_too():
    from transformers import PreTrainedTokenizerFast

    path = BUNDLED / "stories"
    theirs = PreTrainedTokenizerFast.from_pretrained(path, local_files_only=True)
    chat = [{"role": "system", "content": "x"}, {"role": "user", "content": "Tom saw a cat"}]
    ids = theirs.apply_chat_template(chat, tokenize=True, return_dict=False)
    assert ids == TextTokenizer.load(path / "tokenizer.json").encode("Tom saw a cat")
