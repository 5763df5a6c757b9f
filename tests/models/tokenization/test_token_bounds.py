"""How few ids a text can have: never more than it has, and nothing said where nothing is known."""

from __future__ import annotations

import random

import pytest
from tokenizers import AddedToken, Regex, Tokenizer, normalizers, pre_tokenizers
from tokenizers.models import BPE, WordLevel

from models.bundled import BUNDLED
from models.tokenization.token_bounds import BYTES, longest_piece
from models.tokenization.tokenizer import TextTokenizer


def by_byte(**more) -> Tokenizer:
    """A tokenizer in the manner of GPT-2 and LLaDA."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {letter: i for i, letter in enumerate(letters)} | {"ĠĠ": 256, "ĠĠĠĠ": 257, "Ã©": 258}
    merges = [("Ġ", "Ġ"), ("ĠĠ", "ĠĠ"), ("Ã", "©")]
    made = Tokenizer(BPE(vocab, merges, **more))
    made.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(r"\d{1,3}"), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    return made


def by_character(vocab: set[str]) -> Tokenizer:
    """A tokenizer in the manner of LLaMA."""
    pieces = {piece: i for i, piece in enumerate(sorted(vocab))}
    made = Tokenizer(BPE(pieces, [("a", "a")], byte_fallback=True))
    made.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    return made


LETTERS = {"a", "aa", "▁", "🙂", *BYTES}


def test_what_a_piece_can_stand_for():
    assert longest_piece(by_byte()) == 4  # blanks; the letters of é are a byte each
    assert longest_piece(by_character(LETTERS)) == 6  # <0x00>, though it stands for one
    named = by_byte()
    named.add_tokens([AddedToken("<|a long name|>")])
    assert longest_piece(named) == len("<|a long name|>")


def test_tokenizers_that_drop_or_merge_text_have_no_bound():
    hole = by_character(LETTERS - {"<0x7F>"})
    wide, short, cut = by_byte(), by_byte(), by_byte()
    wide.add_special_tokens([AddedToken("<s>", rstrip=True)])
    short.normalizer = normalizers.NFC()
    cut.enable_truncation(8)
    assert [longest_piece(one) for one in (hole, wide, short, cut)] == [None] * 4
    dropping, removing, regular = by_byte(), by_byte(), by_character(LETTERS)
    dropping.pre_tokenizer = pre_tokenizers.Whitespace()
    removing.pre_tokenizer = pre_tokenizers.Split(" ", "removed")
    regular.normalizer = normalizers.Replace(Regex(" +"), "▁")
    assert [longest_piece(one) for one in (dropping, removing, regular)] == [None] * 3
    words = Tokenizer(WordLevel({"a": 0, "[UNK]": 1}, unk_token="[UNK]"))
    suffixed = by_byte(end_of_word_suffix="</w>")
    assert longest_piece(words) is longest_piece(suffixed) is None
    assert TextTokenizer(words).at_least("a" * 1000) == 0


@pytest.mark.parametrize("kind", ["stories", "bytes", "characters"])
def test_a_text_has_at_least_so_many(kind):
    made = {"bytes": by_byte, "characters": lambda: by_character(LETTERS)}
    if kind == "stories":
        tokenizer = TextTokenizer.load(BUNDLED / "stories" / "tokenizer.json")
    else:
        tokenizer = TextTokenizer(made[kind]())
    chance = random.Random(4)
    pieces = [
        "a",
        " ",
        "    ",
        "é",
        "🙂",
        "\x00",
        "\n",
        "<|startoftext|>",
        "<|mdm_mask|>",
        "123",
        "a\u0301",
    ]
    texts = ["", *pieces, *(piece * 300 for piece in pieces)]
    texts += ["".join(chance.choices(pieces, k=chance.randrange(200))) for _ in range(300)]
    for text in texts:
        least, count = tokenizer.at_least(text), tokenizer.count(text, start=False)
        assert least <= count, text
        assert bool(least) == bool(text)
