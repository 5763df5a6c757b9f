"""Text never becomes the mask id, also where tokenizer.json does not mark it as special."""

from __future__ import annotations

import json

import pytest
from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers

from models.checkpoints.load import load_checkpoint
from tests.support.http import call
from tests.support.serving import make_engine, run_server, settings_of, write_tiny

TEMPLATE = "{% for m in messages %}{{ m.content }} {% endfor %}"
WORD = "[MASK]"


def tokenizer(mask_id: int, kind: str) -> Tokenizer:
    """Words split at blanks; the mask is an ordinary entry, or an added token that is not
    special.
    """
    vocab = {f"w{i}": i for i in range(mask_id + 1)}
    if kind == "entry":
        del vocab[f"w{mask_id}"]
        vocab[WORD] = mask_id
    else:
        del vocab[f"w{mask_id}"]
    vocab["[UNK]"] = vocab.pop("w1")
    made = Tokenizer(models.WordLevel(vocab, unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    if kind == "added":
        made.add_tokens([AddedToken(WORD, special=False, normalized=True)])
        assert made.token_to_id(WORD) == mask_id
    return made


@pytest.fixture(scope="module", params=["entry", "added"])
def served(request, tmp_path_factory):
    folder = write_tiny(tmp_path_factory.mktemp("plain-mask") / "tiny")
    mask = json.loads((folder / "config.json").read_text())["mask_token_id"]
    tokenizer(mask, request.param).save(str(folder / "tokenizer.json"))
    (folder / "chat_template.jinja").write_text(TEMPLATE)
    yield from run_server(make_engine(load_checkpoint(folder)), settings_of())


SMALL = {"max_tokens": 4, "steps": 2}


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/completions", {"prompt": f"w5 {WORD} w6", **SMALL}),
        ("/v1/completions", {"prompt": "w5", "suffix": f"w7 {WORD}", **SMALL}),
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": WORD}], **SMALL}),
        ("/v1/score", {"text": f"w5 {WORD}", "samples": 2}),
        ("/v1/score", {"text": "w5", "prompt": WORD, "samples": 2}),
        ("/v1/diffusion/trajectories", {"prompt": WORD, **SMALL}),
        ("/tokenize", {"prompt": f"w5 {WORD}"}),
    ],
)
def test_mask_spelled_out_in_text_is_refused_on_every_route(served, path, body):
    response, text = call(served, "POST", path, body)
    assert response.status == 400, text
    assert "mask token" in json.loads(text)["error"]["message"]
    plain = json.loads(json.dumps(body).replace(WORD, "w9"))
    assert call(served, "POST", path, plain)[0].status == 200
