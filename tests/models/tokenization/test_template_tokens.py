"""Special tokens of a conversation are those that its template writes, whatever it does with the
messages.
"""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest
from tokenizers import Tokenizer, decoders, pre_tokenizers
from tokenizers import models as kinds
from transformers import PreTrainedTokenizerFast

from models.tokenization.chat_template import ChatError, ChatTemplate
from models.tokenization.tokenizer import TextTokenizer
from tests.models.tokenization.test_chat_template import LLADA, SPECIAL, TALK
from tests.support.effort import count, some

MASK = "<|mdm_mask|>"
TOKENS = [*SPECIAL, "<s>", "</s>", "[INST]", "[/INST]", "<|im_start|>", "<|im_end|>", "<|user|>"]
TOKENS += ["<|assistant|>", "<|system|>"]


def talk(*contents: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": content} for content in contents]


def halves(token: str) -> list[tuple[str, str]]:
    return [(token[:at], token[at:]) for at in range(1, len(token))]


def special_of(template: str, messages: list[dict[str, str]], **variables: str) -> list[str]:
    pieces = ChatTemplate(template, variables).render(messages, TOKENS)
    return [text for text, special in pieces if special]


HOSTILE = {
    "joins": ("{{ messages[0].content ~ messages[1].content }}", ("<|mdm_", "mask|>")),
    "one after the other": (
        "{% for m in messages %}{{ m.content }}{% endfor %}",
        ("<|mdm_mask", "|>"),
    ),
    "joins by the filter": (
        "{{ messages | map(attribute='content') | join }}",
        ("<|mdm_", "mask|>"),
    ),
    "turns round": ("{{ messages[0].content[::-1] }}", (MASK[::-1],)),
    "turns round by the filter": ("{{ messages[0].content | reverse }}", (MASK[::-1],)),
    "lower": ("{{ messages[0].content | lower }}", (MASK.upper(),)),
    "swaps": ("{{ messages[0].content.swapcase() }}", (MASK.swapcase(),)),
    "replaces": (
        "{{ messages[0].content | replace('_', '') }}",
        ("<|mdm__mask|>".replace("d", "_d"),),
    ),
    "replaces to the token": ("{{ messages[0].content.replace('x', '<|') }}", ("xmdm_mask|>",)),
    "slices": ("{{ messages[0].content[1:-1] }}", (f"a{MASK}b",)),
    "every other": ("{{ messages[0].content[::2] }}", ("-".join(MASK),)),
    "trims": ("{{ messages[0].content | trim('-') }}", (f"--{MASK}--",)),
    "literal around": ("<|{{ messages[0].content }}|>", ("mdm_mask",)),
    "literal before": ("{{ '<|mdm_' ~ messages[0].content }}", ("mask|>",)),
    "literal added": ("{{ '<|mdm_' + messages[0].content }}", ("mask|>",)),
    "format": ("{{ '<|{}|>'.format(messages[0].content) }}", ("mdm_mask",)),
    "format by the filter": ("{{ '<|%s|>' | format(messages[0].content) }}", ("mdm_mask",)),
    "per cent": ("{{ '<|%s|>' % messages[0].content }}", ("mdm_mask",)),
    "unicode escapes": (
        "{{ messages[0].content.encode().decode('unicode_escape') }}",
        ("".join(f"\\x{ord(c):02x}" for c in MASK),),
    ),
    "numbers of characters": (
        "{% for n in messages[0].content.split() %}{{ '%c' % (n | int) }}{% endfor %}",
        (" ".join(str(ord(c)) for c in MASK),),
    ),
    "a set block": (
        "{% set x %}{{ messages[0].content }}{% endset %}{{ x }}{{ messages[1].content }}",
        ("<|mdm_", "mask|>"),
    ),
    "a macro": (
        "{% macro f(a, b) %}{{ a }}{{ b }}{% endmacro %}"
        "{{ f(messages[0].content, messages[1].content) }}",
        ("<|mdm_", "mask|>"),
    ),
    "a filter block": (
        "{% filter lower %}{{ messages[0].content }}{% endfilter %}",
        (MASK.upper(),),
    ),
    "json": (
        "{{ messages[0].content | tojson | replace('\\\\u003c', '<')"
        " | replace('\\\\u003e', '>') }}",
        (MASK,),
    ),
    "marks of its own": (
        "{{ bos_token[:-2] ~ messages[0].content ~ bos_token[-1] }}",
        ("0",),
    ),
    "marks by a slice": (
        "{% set t = '<|eot_id|>' ~ '' %}{{ t[:1] ~ messages[0].content }}",
        ("<",),
    ),
}


@pytest.mark.parametrize("name", some(HOSTILE, 2))
def test_a_message_in_a_hostile_template_makes_no_special_token(name):
    template, contents = HOSTILE[name]
    try:
        assert special_of(template, talk(*contents), bos_token="<s>") == []
    except ChatError as error:
        assert "takes one of its special tokens apart" in str(error)
        assert name.startswith("marks")


def test_message_in_place_of_a_part_of_a_mark_is_refused_every_time():
    """One guess in ten would be right if a message could hold a digit of a mark."""
    template = "{{ bos_token[:-2] ~ messages[0].content ~ bos_token[-1] }}"
    chat = ChatTemplate(template, {"bos_token": "<s>"})
    for _ in range(100):  # each conversation has marks of its own
        with pytest.raises(ChatError, match="takes one of its special tokens apart"):
            chat.render(talk("0"), TOKENS)


@pytest.mark.parametrize("token", [MASK, "<|eot_id|>"])
def test_halves_of_a_token_in_two_messages_stay_text(token):
    template = "{% for m in messages %}{{ m.content }}{% endfor %}<|eot_id|>"
    chat = ChatTemplate(template, {})
    for first, second in halves(token):
        pieces = chat.render(talk(first, second), TOKENS)
        assert pieces == [(token, False), ("<|eot_id|>", True)]


def random_templates(seed: int, count: int) -> Iterator[str]:
    """Expressions over two messages; none holds a whole special token."""
    draw = random.Random(seed)
    leaves = [
        *("messages[0].content", "messages[1].content", "messages[-1]['content']"),
        *("'<|'", "'|>'", "'<'", "'s>'", "'mdm_'", "'_'", "''", "'[/'", "'INST]'"),
    ]
    around = [
        *("({0} ~ {1})", "({0} + {1})", "({0} ~ {1} ~ {0})", "[{0}, {1}] | join", "({0})[::-1]"),
        *(
            "({0})[1:]",
            "({0})[:-1]",
            "({0}) | upper",
            "({0}) | lower",
            "({0}) | trim",
            "({0}) | title",
        ),
        *("({0}).replace('x', {1})", "({0}) | replace('_', {1})", "'{{}}{{}}'.format({0}, {1})"),
        *(
            "'%s%s' % ({0}, {1})",
            "({0}) | reverse",
            "({0}) | urlencode",
            "({0}) | string",
            "({0}) | e",
        ),
        *("({0} if {1} else {1})", "({0} or {1})", "({0}).join([{1}, {1}])", "({0}).strip('-')"),
        *(
            "({0}) | list | join",
            "({0}).split('-') | join({1})",
            "({0}).swapcase()",
            "({0}) | safe",
        ),
    ]
    for _ in range(count):
        lines = []
        for _ in range(draw.randint(1, 4)):
            made = draw.choice(leaves)
            for _ in range(draw.randint(0, 4)):
                made = draw.choice(around).format(made, draw.choice(leaves))
            lines.append(
                draw.choice(
                    ["{{{{ {0} }}}}", "<|{{{{ {0} }}}}", "{{% set x = {0} %}}{{{{ x }}}}"]
                ).format(made)
            )
        yield "".join(lines)


def random_content(draw: random.Random) -> str:
    parts = []
    for _ in range(draw.randint(1, 4)):
        token = draw.choice(TOKENS)
        cut = draw.randint(0, len(token))
        part = draw.choice(
            [token, token[:cut], token[cut:], token[::-1], token.upper(), "-".join(token), "x"]
        )
        parts.append(part)
    return "".join(parts)


def test_random_templates_of_random_messages_write_no_special_token():
    """Seeded. The templates spell no token, so whatever is found would be a message's."""
    draw, ran = random.Random(3), 0
    for template in random_templates(3, count(20, 60)):
        chat = ChatTemplate(template, {})
        for _ in range(4):
            contents = [random_content(draw), random_content(draw)]
            try:
                pieces = chat.render(talk(*contents), TOKENS)
            except ChatError:
                continue
            ran += 1
            assert not [text for text, special in pieces if special], (template, contents)
    assert ran > count(40, 120)


@pytest.mark.parametrize(
    ("template", "special"),
    [
        ("<|{{ messages[0].role }}|>", ["<|user|>"]),
        ("{{ '<|' + messages[0]['role'] + '|>' }}", ["<|user|>"]),
        ("{{ '<|' ~ messages[0]['role'] ~ '|>\\n' ~ messages[0].content }}", ["<|user|>"]),
        ("{% set role = 'assistant' %}<|{{ role }}|>", ["<|assistant|>"]),
        ("{% set t = '<s>' if messages else 'x' %}{{ t + 'a' }}", ["<s>"]),
        ("{{ ['<s>', messages[0].content] | join('</s>') }}", ["<s>", "</s>"]),
        ("{{ '<s>{}</s>'.format(messages[0].content) }}", ["<s>", "</s>"]),
        ("{{ '<s>%s</s>' % messages[0].content }}", ["<s>", "</s>"]),
        ("{% macro f(t) %}{{ t }}{% endmacro %}{{ f('<s>') }}", ["<s>"]),
        ("{% filter upper %}a{{ bos_token }}{% endfilter %}", ["<s>"]),
        ("{{ (bos_token ~ ' x ') | trim }}", ["<s>"]),
        ("{{ messages[0].content.split('</s>')[-1] ~ '</s>' }}", ["</s>"]),
        ("{% if '</s>' in messages[0].content %}<s>{% endif %}", ["<s>"]),
        ("{{ nothing | default('<s>') }}", ["<s>"]),
        ("{% for t in ['<s>', '</s>'] %}{{ t }}{% endfor %}", ["<s>", "</s>"]),
        ("{% set ns = namespace(t='<s>') %}{{ ns.t }}", ["<s>"]),
    ],
)
def test_tokens_that_a_template_writes_itself_are_special(template, special):
    assert special_of(template, talk("a</s>b"), bos_token="<s>") == special


def test_a_role_that_is_no_role_is_text():
    messages = [{"role": "mdm_mask", "content": "x"}]
    assert special_of("<|{{ messages[0].role }}|>", messages) == []


def test_errors_spell_tokens_out():
    chat = ChatTemplate("{{ raise_exception('no ' ~ bos_token) }}", {"bos_token": "<s>"})
    with pytest.raises(ChatError, match=r"^no <s>$"):
        chat.render(TALK, TOKENS)


CHATML = (
    "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] + "
    "'<|im_end|>' + '\n'}}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
LLAMA3 = (
    "{% set loop_messages = messages %}{% for message in loop_messages %}"
    "{% set content = '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n'+ "
    "message['content'] | trim + '<|eot_id|>' %}{% if loop.index0 == 0 %}"
    "{% set content = bos_token + content %}{% endif %}{{ content }}{% endfor %}"
    "{% if add_generation_prompt %}"
    "{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)
MISTRAL = (
    "{{ bos_token }}{% for message in messages %}{% if message['role'] == 'user' %}"
    "{{ '[INST] ' + message['content'] + ' [/INST]' }}{% elif message['role'] == 'assistant' %}"
    "{{ message['content'] + eos_token}}{% else %}{{ message['content'] ~ '\n' }}{% endif %}"
    "{% endfor %}"
)
QWEN3 = (
    "{%- if messages[0].role == 'system' %}\n"
    "    {{- '<|im_start|>system\\n' + messages[0].content + "
    "'<|im_end|>\\n' }}\n{%- endif %}\n"
    "{%- set ns = namespace(multi_step_tool=true, last_query_index=messages|length - 1) %}\n"
    "{%- for message in messages %}\n"
    "    {%- set content = message.content if message.content is string else '' %}\n"
    "    {%- if (message.role == 'user') or (message.role == 'system' and not loop.first) %}\n"
    "        {{- '<|im_start|>' + message.role + '\\n' + content + '<|im_end|>' + '\\n' }}\n"
    "    {%- elif message.role == 'assistant' %}\n"
    "        {%- set reasoning = '' %}\n"
    "        {%- if '</think>' in content %}\n"
    "            {%- set reasoning = content.split('</think>')[0].rstrip('\\n') %}\n"
    "            {%- set content = content.split('</think>')[-1].lstrip('\\n') %}\n"
    "        {%- endif %}\n"
    "        {{- '<|im_start|>' + message.role + '\\n' + content }}\n"
    "        {{- '<|im_end|>\\n' }}\n"
    "    {%- endif %}\n{%- endfor %}\n{{- '<|im_start|>assistant\\n' }}"
)
PHI3 = (
    "{% for message in messages %}{{'<|' + message['role'] + '|>' + '\n' + message['content'] + "
    "'<|im_end|>\n' }}{% endfor %}{{ '<|assistant|>\n' }}"
)
GLM4 = (
    "{{ bos_token }}{% for item in messages %}<|{{ item['role'] }}|>\n{{ item['content'] }}"
    "{% endfor %}<|assistant|>"
)


@pytest.mark.parametrize("template", [LLADA, CHATML, LLAMA3, MISTRAL, QWEN3, PHI3, GLM4])
def test_published_templates_give_the_ids_of_transformers(tmp_path, template):
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {letter: i for i, letter in enumerate(alphabet)}
    vocab |= {"ĠĠ": 256, "ĊĊ": 257}
    tokenizer = Tokenizer(kinds.BPE(vocab, [("Ġ", "Ġ"), ("Ċ", "Ċ")]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(TOKENS)
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    chat = ChatTemplate(template, {"bos_token": "<s>", "eos_token": "</s>"})
    ours = TextTokenizer(tokenizer, chat)
    theirs = PreTrainedTokenizerFast(
        tokenizer_file=str(tmp_path / "tokenizer.json"), bos_token="<s>", eos_token="</s>"
    )
    thinking = {"role": "assistant", "content": "<think>\nWell.\n</think>\n\nNo."}
    for messages in (TALK, TALK[1:2], [*TALK[:2], thinking, TALK[3]]):
        text = theirs.apply_chat_template(
            messages, chat_template=template, tokenize=False, add_generation_prompt=True
        )
        assert isinstance(text, str)
        assert ours.encode_chat(messages) == theirs.encode(text, add_special_tokens=False)
