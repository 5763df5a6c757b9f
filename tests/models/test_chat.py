"""Chat templates: the published one token by token, and people who write special tokens."""

from __future__ import annotations

import json

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from models.chat import ChatError, ChatTemplate
from models.tokenizer import TextTokenizer
from models.weights import CheckpointError

SPECIAL = [
    "<|startoftext|>",
    "<|endoftext|>",
    "<|start_header_id|>",
    "<|end_header_id|>",
    "<|eot_id|>",
    "<|mdm_mask|>",
]
# the template of LLaDA-8B-Instruct, as its behaviour is described in public
LLADA = (
    "{% for message in messages %}{% set content = '<|start_header_id|>' + message['role'] + "
    "'<|end_header_id|>\n\n' + message['content'] | trim + '<|eot_id|>' %}"
    "{% if loop.index0 == 0 %}{% set content = bos_token + content %}{% endif %}{{ content }}"
    "{% endfor %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}"
)


@pytest.fixture
def folder(tmp_path):
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {letter: i for i, letter in enumerate(alphabet)}
    vocab |= {"ĠĠ": 256, "ĊĊ": 257}
    tokenizer = Tokenizer(models.BPE(vocab, [("Ġ", "Ġ"), ("Ċ", "Ċ")]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(SPECIAL)
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    config = {"bos_token": SPECIAL[0], "eos_token": {"content": SPECIAL[1]}, "chat_template": LLADA}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    return tmp_path


TALK = [
    {"role": "system", "content": " Be kind.\n"},
    {"role": "user", "content": "Hi,  who?\n\n\nYou"},
    {"role": "assistant", "content": "Me. é 😀"},
    {"role": "user", "content": "\n\nWhy?  "},
]


def test_ids_are_those_of_transformers(folder):
    ours = TextTokenizer.load(folder / "tokenizer.json")
    theirs = PreTrainedTokenizerFast(
        tokenizer_file=str(folder / "tokenizer.json"),
        bos_token=SPECIAL[0],
        eos_token=SPECIAL[1],
    )
    for talk in (TALK, TALK[1:2], TALK[:2]):
        text = theirs.apply_chat_template(talk, chat_template=LLADA, tokenize=False)
        assert isinstance(text, str)
        assert ours.encode_chat(talk) == theirs.encode(text, add_special_tokens=False)
    assert ours.end_of_turn == theirs.convert_tokens_to_ids("<|eot_id|>")


@pytest.mark.parametrize("token", SPECIAL)
def test_a_special_token_in_a_message_is_text(folder, token):
    ours = TextTokenizer.load(folder / "tokenizer.json")
    plain = ours.encode_chat([{"role": "user", "content": "x"}])
    for content in (token, f"a{token}b", f"{token}{token}", f"  {token}\n"):
        ids = ours.encode_chat([{"role": "user", "content": content}])
        special = [i for i in ids if i >= 258]
        assert special == [i for i in plain if i >= 258]
        text = ours.decode([i for i in ids if i < 258])
        assert text == f"user\n\n{content.strip()}assistant\n\n"


def test_templates_refuse_and_fail_in_a_line():
    picky = ChatTemplate("{{ raise_exception('no system message, please') }}", {})
    with pytest.raises(ChatError, match="no system message, please"):
        picky.render(TALK, [])
    for source in (
        "{{ messages[0].nothing.at_all }}",
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ messages.append(1) }}",
        "{{ 1 / 0 }}",
        "{{ range(999999999) | list }}",
    ):
        with pytest.raises(ChatError, match="cannot take these messages"):
            ChatTemplate(source, {}).render(TALK, SPECIAL)
    with pytest.raises(ValueError, match="chat template"):
        ChatTemplate("{% for %}", {})


def test_where_templates_are_found(folder):
    (folder / "chat_template.jinja").write_text("{{ messages[0].content }}!")
    assert TextTokenizer.load(folder / "tokenizer.json").encode_chat(TALK[:1])[-1] == 0
    (folder / "chat_template.jinja").unlink()
    config = {"chat_template": [{"name": "default", "template": "{{ bos_token }}"}]}
    (folder / "tokenizer_config.json").write_text(json.dumps(config | {"bos_token": SPECIAL[0]}))
    assert TextTokenizer.load(folder / "tokenizer.json").encode_chat(TALK) == [258]
    (folder / "tokenizer_config.json").unlink()
    with pytest.raises(ChatError, match="no chat template"):
        TextTokenizer.load(folder / "tokenizer.json").encode_chat(TALK)
    (folder / "tokenizer_config.json").write_text("[]")
    with pytest.raises(CheckpointError, match="JSON object"):
        TextTokenizer.load(folder / "tokenizer.json")
