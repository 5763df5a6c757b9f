"""Chat templates: the published one token by token, and people who write special tokens."""

from __future__ import annotations

import gc
import json
import os
import resource
import signal
import time
from pathlib import Path

import pytest
from tokenizers import Tokenizer, decoders, pre_tokenizers
from tokenizers import models as kinds
from transformers import PreTrainedTokenizerFast

from models.errors import CheckpointError
from models.tokenization import template_worker
from models.tokenization.chat_template import ChatError, ChatTemplate
from models.tokenization.tokenizer import TextTokenizer

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
    tokenizer = Tokenizer(kinds.BPE(vocab, [("Ġ", "Ġ"), ("Ċ", "Ċ")]))
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
    with pytest.raises(ValueError, match="longer than"):
        ChatTemplate(" " * 200_000, {})


@pytest.mark.parametrize(
    "source",
    [
        "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
        pytest.param(
            "{% macro f(n) %}{% if n %}{{ f(n-1) ~ f(n-1) }}{% endif %}{% endmacro %}{{ f(60) }}",
            marks=pytest.mark.slow,
        ),
        "{{ 9 ** (9 ** 9) }}",  # one operation, done before the template runs
        pytest.param(
            "{% set ns = namespace(x=9) %}"
            "{% for i in 'abcd' %}{% set ns.x = ns.x ** 99 %}{% endfor %}",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_templates_without_an_end_are_ended(source):
    endless = ChatTemplate(source, {})
    before = time.process_time(), children()
    with pytest.raises(ChatError, match="more than 1 s of CPU time"):
        endless.render(TALK, SPECIAL)
    ours, theirs = time.process_time() - before[0], children() - before[1]
    assert (
        ours < template_worker.CPU_SECONDS / 2 < theirs < template_worker.CPU_SECONDS + 2
    )  # Python starts


@pytest.mark.parametrize(
    "source",
    [
        "{{ 'a' * 10 ** 9 }}",
        "{{ 'a' | center(10 ** 10) }}",
        "{{ '%1000000000d' % 1 }}",
        "{{ (range(99999) | list) * 99999 }}",
        "{% set ns = namespace(x='aa') %}"
        "{% for i in range(60) %}{% set ns.x = ns.x" + " ~ ns.x" * 15 + " %}{% endfor %}{{ ns.x }}",
        "{% for a in range(99999) %}{% for b in range(99999) %}aaaa{% endfor %}{% endfor %}",
        "{% macro f(n) %}{{ f(n + 1) }}{% endmacro %}{{ f(0) }}",
        "{% for i in range(10 ** 9) %}{% endfor %}",
    ],
)
def test_templates_that_want_too_much_get_none_of_it(source):
    """Memory, text, depth; the process lives on, and this one has not grown."""
    huge = ChatTemplate(source, {})
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for _ in range(2):
        with pytest.raises(ChatError, match="cannot take these messages"):
            huge.render(TALK, SPECIAL)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 64 << 10  # KiB


def test_a_template_s_process_goes_with_it_and_is_started_again():
    template, live = ChatTemplate("{{ messages[0].content }}", {}), [{"content": "live"}]
    assert template.render(live, []) == [("live", False)]
    assert template._process is not None
    first = template._process.pid
    os.kill(first, signal.SIGTERM)  # as a whole group gets it when the server is to drain
    assert template.render(live, []) == [("live", False)]
    assert template._process.pid == first
    os.kill(first, signal.SIGKILL)
    template._process.wait()
    assert template.render(live, []) == [("live", False)]
    second = template._process.pid
    assert second != first and Path(f"/proc/{second}").exists()
    del template
    gc.collect()
    assert not Path(f"/proc/{second}").exists()


def test_a_process_that_is_killed_over_its_work_is_an_error():
    endless = ChatTemplate("{{ 9 ** (9 ** 9) }}", {})
    asked = endless.submit(TALK, [])
    while endless._process is None:
        time.sleep(0.01)
    os.kill(endless._process.pid, signal.SIGKILL)
    with pytest.raises(ChatError, match="ended over these messages"):
        asked.result()


def children() -> float:
    """Seconds of CPU time of processes that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


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


@pytest.mark.parametrize(
    ("source", "shown"),
    [
        ("{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}", True),
        ("{% for m in messages if m.role != 'system' %}{{ m.content }}{% endfor %}", False),
        ("{{ messages[-1].content }}", False),
        ("{{ raise_exception('no system message, please') }}", False),
        ("{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}", None),
    ],
)
def test_probe_of_a_system_message_tells_whether_the_template_shows_it(source, shown):
    template = ChatTemplate(source, {})
    assert template.shows_system is None
    template.probe_system(0.5 if shown is None else 30)
    assert template.shows_system is shown
