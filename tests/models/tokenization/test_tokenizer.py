"""Text to ids and back."""

from __future__ import annotations

import json
import time

import pytest
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers

from models.bundled import BUNDLED
from models.tokenization.tokenizer import TextTokenizer, TokenizerError


@pytest.fixture(scope="module")
def tokenizer():
    return TextTokenizer.load(BUNDLED / "stories" / "tokenizer.json")


def test_decoded_ids_are_the_text(tokenizer):
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


# Files with more in them than a vocabulary --------------------------------------------------------


@pytest.fixture
def changed(tmp_path):
    """The tokenizer of ``stories`` with some parts of its file replaced."""

    def read(**parts) -> TextTokenizer:
        file = json.loads((BUNDLED / "stories" / "tokenizer.json").read_text())
        (tmp_path / "tokenizer.json").write_text(json.dumps(file | parts))
        return TextTokenizer.load(tmp_path / "tokenizer.json")

    return read


PADDING = {"direction": "Right", "pad_id": 1, "pad_type_id": 0, "pad_token": "<|endoftext|>"}
CUTTING = {"strategy": "LongestFirst", "direction": "Right"}
SEQUENCE = {"Sequence": {"id": "A", "type_id": 0}}
MORE = {"SpecialToken": {"id": "x", "type_id": 0}}
ADDED = {"type": "TemplateProcessing", "pair": []}


@pytest.mark.parametrize(
    "parts",
    [
        {"padding": {**PADDING, "strategy": {"Fixed": 10**9}, "pad_to_multiple_of": None}},
        {"padding": {**PADDING, "strategy": "BatchLongest", "pad_to_multiple_of": 64}},
        {"truncation": {**CUTTING, "max_length": 2, "stride": 0}},
        {"truncation": {**CUTTING, "max_length": 2, "stride": 9}},
        {"truncation": {**CUTTING, "max_length": 0, "stride": 0}},
    ],
    ids=["padding", "multiples", "truncation", "stride", "nothing"],
)
@pytest.mark.parametrize("text", ["Once upon a time", "Once upon a time " * 400])
def test_a_file_saved_with_padding_or_truncation_reads_texts_as_they_are(
    tokenizer, changed, parts, text
):
    read = changed(**parts)
    assert read.encode(text) == tokenizer.encode(text)
    assert read.count(text) == tokenizer.count(text)
    assert read.start == tokenizer.start


@pytest.mark.parametrize(
    "single, ids, start",
    [
        ([MORE, SEQUENCE], [0], [0]),
        ([SEQUENCE, MORE], [1], []),
        ([MORE, SEQUENCE, MORE], [0], [0]),
        ([MORE, SEQUENCE], [10**9], []),
        ([SEQUENCE, SEQUENCE], [0], []),
    ],
    ids=["start", "end", "both", "no such id", "twice"],
)
def test_a_template_of_a_file_adds_its_start_token_and_nothing_else(
    tokenizer, changed, single, ids, start
):
    special = {"x": {"id": "x", "ids": ids, "tokens": ["x"] * len(ids)}}
    read = changed(post_processor={**ADDED, "single": single, "special_tokens": special})
    plain = tokenizer.encode("Once upon", start=False)
    assert read.start == start
    assert read.encode("Once upon") == [*start, *plain]
    assert read.encode("Once upon", start=False) == plain


SLOW = {"type": "Split", "pattern": {"Regex": "(a+)+$"}, "behavior": "Isolated", "invert": False}
STRIP = {"type": "Strip", "content": "▁", "start": 0, "stop": 5}
GROWING = {"type": "Replace", "pattern": {"String": "a"}, "content": "a" * 100}


@pytest.mark.parametrize(
    "parts, why",
    [
        ({"decoder": STRIP, "normalizer": None}, "index out of bounds"),
        ({"model": {"type": "WordLevel", "vocab": {"b": 9}, "unk_token": "u"}}, "Missing"),
        ({"model": {"type": "Unigram", "vocab": [], "unk_id": None}}, "unk_id"),
        (
            {
                "model": {
                    "type": "WordPiece",
                    "vocab": {"a": 3, "u": 4},
                    "unk_token": "u",
                    "continuing_subword_prefix": "##",
                    "max_input_chars_per_word": 10**9,
                }
            },
            "max_input_chars_per_word is 1000000000; the limit is 256",
        ),
        ({"normalizer": {"type": "Sequence", "normalizers": [GROWING] * 5}}, "10000000000 times"),
    ],
    ids=["decoder", "words", "unigram", "word piece", "normalizer"],
)
def test_a_file_that_its_library_fails_over_is_refused_in_a_line(changed, parts, why):
    began = time.monotonic()
    with pytest.raises(ValueError, match=why) as error:
        changed(**parts)
    assert "\n" not in str(error.value) and str(error.value).startswith("tokenizer.json: ")
    assert time.monotonic() - began < 10


def test_a_panic_of_the_library_is_an_error(changed):
    """Not the BaseException that it is."""
    read = changed(pre_tokenizer=SLOW)
    for text in ("a" * 40 + "b", "a" * 5000 + "b"):
        with pytest.raises(TokenizerError, match="retry-limit"):
            read.encode(text)
    assert read.encode("b", start=False)
    made = Tokenizer(models.BPE({"a": 0, "b": 1, " ": 2}, []))
    made.decoder = decoders.Sequence([decoders.Fuse(), decoders.Replace(Regex("(a+)+$"), "")])
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    read = TextTokenizer(made)
    for ids in ([0] * 40 + [1], [0] * 5000 + [1]):
        with pytest.raises(TokenizerError, match="retry-limit"):
            read.decode(ids)
