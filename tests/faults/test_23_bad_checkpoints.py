"""Rows 23 and 24 of the faults: checkpoints that are damaged, lie or mean harm end a command with
one line, and nothing else happens.

Every folder goes through ``info``, ``convert`` and ``serve`` in processes of their own under an
audit hook. What ``tests/models`` holds already (missing files, wrong shapes, pickles of
``convert``) is not repeated.
"""

from __future__ import annotations

import json
import random
import re
import shutil
import struct
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

from models.checkpoints.load import inspect_checkpoint
from models.errors import CheckpointError
from tests.faults import audited
from tests.faults.corpus import (
    INDEX,
    WEIGHTS,
    Spoil,
    bare_pickle,
    both,
    claimed,
    deep,
    edit,
    first,
    link,
    many_ids,
    not_finite,
    offsets,
    overlapping,
    pickled,
    pipe,
    shard,
    sparse,
    twice,
    write,
)
from tests.support.effort import some
from tests.support.serving import write_tiny

ALL = ("info", "convert", "serve")


class Bad(NamedTuple):
    """A way to spoil a folder, what the line says, and the commands that refuse it."""

    spoil: Spoil
    words: str
    refuse: tuple[str, ...] = ALL


def config(words: str, **fields: object) -> Bad:
    return Bad(edit("config.json", **fields), words)


def defaults(words: str, **fields: object) -> Bad:
    return Bad(edit("generation_config.json", **fields), words)


BAD = {
    # shards that lie elsewhere
    "index: parent": Bad(shard("../outside.safetensors"), "not the name of a file"),
    "index: absolute": Bad(shard("OUTSIDE"), "not the name of a file"),
    "index: below": Bad(shard("a/../../outside.safetensors"), "not the name of a file"),
    "index: dots": Bad(shard(".."), "not the name of a file"),
    "index: empty": Bad(shard(""), "not the name of a file"),
    "index: NUL": Bad(shard("a\0.safetensors"), "not the name of a file"),
    "index: config": Bad(shard("config.json"), "config.json"),
    "index: long name": Bad(shard("a" * 5000), "too long"),
    "index: longer than a name may be": Bad(shard("a" * 256 + ".safetensors"), "too long"),
    "index: deep": Bad(write(INDEX, deep()), "nested"),
    # links and what is no file
    "link: weights": Bad(link(WEIGHTS), "leads out of the folder"),
    "link: config": Bad(link("config.json"), "leads out of the folder"),
    "link: tokenizer": Bad(link("tokenizer.json"), "leads out of the folder"),
    "link: defaults": Bad(link("generation_config.json"), "leads out of the folder"),
    "link: template": Bad(link("chat_template.jinja"), "leads out of the folder"),
    "link: tokens": Bad(link("tokenizer_config.json"), "leads out of the folder"),
    "link: password": Bad(link("config.json", to="/etc/passwd"), "leads out of the folder"),
    "link: device": Bad(link(WEIGHTS, to="/dev/zero"), "leads out of the folder"),
    "link: circle": Bad(link("config.json", to="config.json"), "config.json"),
    "link: shard": Bad(
        both(shard("a.safetensors"), link("a.safetensors")), "leads out of the folder"
    ),
    "pipe: weights": Bad(pipe(WEIGHTS), "is missing"),
    "pipe: config": Bad(pipe("config.json"), "is missing"),
    # headers that lie
    "header: empty file": Bad(write(WEIGHTS, b""), WEIGHTS),
    "header: seven bytes": Bad(write(WEIGHTS, b"\0" * 7), WEIGHTS),
    "header: of nothing": Bad(write(WEIGHTS, struct.pack("<Q", 0)), WEIGHTS),
    "header: 2^63 long": Bad(claimed(lambda held: None, 2**63), WEIGHTS),
    "header: 2^40 long": Bad(claimed(lambda held: None, 2**40), WEIGHTS),
    "header: past the end": Bad(claimed(lambda held: None, 99_000_000), WEIGHTS),
    "header: cut": Bad(claimed(lambda held: None, 100), WEIGHTS),
    "header: 2^63 offset": Bad(offsets(0, 2**63), WEIGHTS),
    "header: 2^64 offset": Bad(offsets(0, 2**64), WEIGHTS),
    "header: negative offset": Bad(offsets(-4, 0), WEIGHTS),
    "header: backwards": Bad(offsets(64, 0), WEIGHTS),
    "header: overlapping": Bad(claimed(overlapping), WEIGHTS),
    "header: huge shape": Bad(claimed(lambda h: first(h).update(shape=[2**62, 8])), WEIGHTS),
    "header: shape": Bad(claimed(lambda h: first(h).update(shape=[3])), WEIGHTS),
    "header: no type": Bad(claimed(lambda h: first(h).update(dtype="PICKLE")), WEIGHTS),
    "header: type": Bad(claimed(lambda h: first(h).update(dtype="I64")), WEIGHTS),
    "header: integers": Bad(
        claimed(lambda h: first(h).update(dtype="I32")), "no floats", ("convert", "serve")
    ),
    "header: no object": Bad(claimed(lambda h: "[]"), WEIGHTS),
    "header: deep": Bad(claimed(lambda h: deep('{"a":', "}")), WEIGHTS),
    "header: not UTF-8": Bad(claimed(lambda h: b'{"\xff": 1}'), WEIGHTS),
    "header: metadata": Bad(claimed(lambda h: h.update(__metadata__={"a": [1]})), WEIGHTS),
    "header: a name of control characters": Bad(
        claimed(lambda h: h.update({"\x1b[31m\nroot": h.pop(next(iter(h)))})), "1 tensors missing"
    ),
    "weights: NaN": Bad(not_finite, "not finite", ("convert", "serve")),
    # pickles
    "pickle: zip": Bad(pickled("pytorch_model.bin"), f"{WEIGHTS} is missing"),
    "pickle: ckpt": Bad(pickled("model.ckpt"), f"{WEIGHTS} is missing"),
    "pickle: bare": Bad(bare_pickle("pytorch_model.bin"), f"{WEIGHTS} is missing"),
    "pickle: under a good name": Bad(bare_pickle(WEIGHTS), WEIGHTS),
    "pickle: zip under a good name": Bad(pickled(WEIGHTS), WEIGHTS),
    "pickle: shard": Bad(both(shard("a.bin"), bare_pickle("a.bin")), "a.bin"),
    # configs
    "config: deep": Bad(write("config.json", deep('{"a":', "}")), "nested"),
    "config: long number": Bad(write("config.json", '{"a": ' + "9" * 5000 + "}"), "config.json"),
    "config: UTF-16": Bad(write("config.json", "{}".encode("utf-16")), "config.json"),
    "config: NUL": Bad(write("config.json", b"\0" * 100), "config.json"),
    "config: layers": config("n_layers", n_layers=10**9),
    "config: width": config("d_model", d_model=2**40),
    "config: words": config("vocab_size", vocab_size=2**62, embedding_size=None),
    "config: length": config("max_sequence_length", max_sequence_length=2**62),
    "config: length as text": config("max_sequence_length", max_sequence_length="__import__('os')"),
    "config: mask as text": config("mask_token_id", mask_token_id="0"),
    "config: mask": config("mask_token_id", mask_token_id=-1),
    "config: end as text": config("eos_token_id", eos_token_id="0"),
    "config: end": config("eos_token_id", eos_token_id=10**6),
    "config: twice": Bad(write("config.json", '{"a": 1, "a": 2}'), "'a' is there twice"),
    "config: twice among many": Bad(
        write("config.json", twice(200_000)), "'k199999' is there twice"
    ),
    "config: a gibibyte": Bad(sparse("config.json", 1 << 30), "bytes; at most"),
    "config: rotary angles": config("max_sequence_length", max_sequence_length=2**24),
    "config: ratio as text": config("mlp_ratio", mlp_hidden_size=None, mlp_ratio="4"),
    "config: ratio as list": config("mlp_ratio", mlp_hidden_size=None, mlp_ratio=[4]),
    "config: no heads": config("n_heads", n_heads=0),
    "config: no heads for keys": config("n_kv_heads", n_kv_heads=0),
    "config: layers as truth": config("n_layers", n_layers=True),
    "config: infinite eps": config("rms_norm_eps", rms_norm_eps=float("inf")),
    "config: tying as text": config("weight_tying", weight_tying="no"),
    "config: base": config("rope_theta", rope_theta=float("nan")),
    "config: base as text": config("rope_theta", rope_theta="1e4"),
    "config: heads": config("n_heads", n_heads=float("inf")),
    "config: width of lists": config("mlp_hidden_size", mlp_hidden_size=[1]),
    "config: eps": config("rms_norm_eps", rms_norm_eps={"a": 1}),
    "config: no family": config("model_type", model_type="../../etc/passwd"),
    "config: classes": config("class_names", class_names=["\x1b]0;x\x07"]),
    # defaults of requests
    "defaults: steps": defaults("steps", steps=10**30),
    "defaults: steps as text": defaults("steps", steps="4"),
    "defaults: steps as a long text": defaults("steps", steps="4" * 100_000),
    "defaults: steps as a long list": defaults("steps", steps=[*range(50_000)]),
    "defaults: sampler": defaults("sampler", sampler="../topk"),
    "defaults: by sampler as list": defaults("by_sampler", by_sampler=[1]),
    "defaults: of a sampler as list": defaults("by_sampler", by_sampler={"topk": []}),
    "defaults: of no sampler": defaults("sampler", by_sampler={"../topk": {}}),
    "defaults: of a sampler, no parameter": defaults("by_sampler", by_sampler={"topk": {"x": 1}}),
    "defaults: of a sampler, a word": defaults("top_p", by_sampler={"topk": {"top_p": "1"}}),
    "defaults: sampler as list": defaults("sampler", sampler=["topk"]),
    "defaults: ratio": defaults("mixing_ratio", mixing_ratio=float("nan")),
    "defaults: ratio as text": defaults("mixing_ratio", mixing_ratio="0.1"),
    "defaults: temperature": defaults("temperature", temperature=[1]),
    "defaults: temperature as text": defaults("temperature", temperature="hot"),
    "defaults: length": defaults("max_new_tokens", max_new_tokens="many"),
    # tokenizers and templates
    "tokenizer: cut": Bad(
        write("tokenizer.json", '{"version": "1.0", "model": {'), "tokenizer.json"
    ),
    "tokenizer: deep": Bad(write("tokenizer.json", deep()), "tokenizer.json"),
    "tokenizer: NUL": Bad(write("tokenizer.json", b"\0" * 100), "tokenizer.json"),
    "tokenizer: kind": Bad(edit("tokenizer.json", model={"type": "Pickle"}), "tokenizer.json"),
    "tokenizer: words": Bad(
        edit(
            "tokenizer.json", model={"type": "WordLevel", "vocab": {"a": 2**31}, "unk_token": "a"}
        ),
        "tokenizer",
    ),
    "tokenizer: three million ids": Bad(
        many_ids("tokenizer.json", 3_000_000),
        "bytes; for the 4454 ids of the model at most",
    ),
    "tokenizer: an id too many": Bad(
        edit("tokenizer.json", added_tokens=[{"id": 4454, "content": "<x>"}]),
        "the tokenizer has 4455 ids, the model 4454",
    ),
    "template: a gibibyte": Bad(sparse("chat_template.jinja", 1 << 30), "longer than"),
    "tokens: deep": Bad(write("tokenizer_config.json", deep()), "nested"),
    "tokens: no object": Bad(write("tokenizer_config.json", "[]"), "tokenizer_config.json"),
    "tokens: not UTF-8": Bad(
        write("tokenizer_config.json", b'{"a": "\xff"}'), "tokenizer_config.json"
    ),
    "template: unnamed": Bad(
        edit("tokenizer_config.json", chat_template=[{"a": 1}]), "chat_template"
    ),
    "template: of numbers": Bad(edit("tokenizer_config.json", chat_template=[1]), "chat_template"),
    "template: start": Bad(
        edit("tokenizer_config.json", chat_template="x", bos_token={"a": 1}), "bos_token"
    ),
    "template: broken": Bad(write("chat_template.jinja", "{% for %}"), "chat template"),
    "template: deep": Bad(write("chat_template.jinja", "{{" + "(" * 50_000), "chat template"),
    "template: not UTF-8": Bad(write("chat_template.jinja", b"\xff"), "chat_template.jinja"),
}


class Outcome(NamedTuple):
    """How a command ended on a folder, which is ``place / "tiny"``."""

    name: str
    command: str
    place: Path
    status: int
    said: str

    def check(self) -> None:
        """One line, and nothing else happened."""
        told = f"{self.command} of {self.name}: {self.status}: {self.said[-2000:]}"
        assert self.status in (1, 2), told
        assert re.fullmatch(r"xdlm: [^\n\x00-\x1f]{1,600}\n", self.said), told
        assert BAD[self.name].words in self.said, told
        assert not (self.place / "canary").exists()
        assert not list(self.place.glob("out/*"))
        seen = audited.events(self.place / "events")
        assert any(event.name == "open" for event in seen), "the hook saw nothing"
        wrong = audited.foreign(seen, self.place / "tiny", self.place / "out")
        if self.command == "serve":  # its listener, bound before the weights are read
            wrong = [e for e in wrong if e.name not in LISTENING]
        assert not wrong, f"{told}: {wrong}"


def run(work: Path, wanted: list[tuple[str, str]]) -> list[Outcome]:
    """Commands on folders, each in a child of its own."""
    good = write_tiny(work / "good")
    places, cases = [], []
    for number, (name, command) in enumerate(wanted):
        place = work / str(number)
        places.append(place)
        shutil.copytree(good, place / "tiny")
        BAD[name].spoil(place / "tiny")
        behind = {"convert": [str(place / "out" / "made")], "serve": ["--port", "0"]}
        arguments = [command, str(place / "tiny"), *behind.get(command, [])]
        files = {"output": str(place / "output"), "events": str(place / "events")}
        cases.append({"arguments": arguments, **files})
    (work / "cases.json").write_text(json.dumps(cases))
    program = [sys.executable, "-m", "tests.faults.audited", "--cases", work / "cases.json"]
    done = subprocess.run(program, cwd=audited.ROOT, capture_output=True, text=True, check=True)
    ended = zip(wanted, places, json.loads(done.stdout), strict=True)
    return [
        Outcome(*named, place, status, (place / "output").read_text())
        for named, place, status in ended
    ]


LISTENING = ("socket.__new__", "socket.bind", "socket.getaddrinfo")
TRIED = some(BAD, 7)
"""A seventh of them in ``make test``; all of them, by every command, in ``make test-all``."""


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory) -> dict[str, Outcome]:
    """Every folder, by one of the commands in turn."""
    wanted = [(n, BAD[n].refuse[i % len(BAD[n].refuse)]) for i, n in enumerate(TRIED)]
    return {outcome.name: outcome for outcome in run(tmp_path_factory.mktemp("bad"), wanted)}


@pytest.mark.parametrize("name", TRIED)
def test_rows_23_and_24_refused_in_one_line_and_nothing_else(outcomes, name):
    outcomes[name].check()


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_rows_23_and_24_by_every_command(tmp_path):
    for outcome in run(tmp_path, [(name, c) for name, bad in BAD.items() for c in bad.refuse]):
        outcome.check()


@pytest.mark.parametrize("count", [300, pytest.param(30_000, marks=pytest.mark.slow)])
def test_row_23_bytes_of_a_header_changed_at_random(tmp_path, count):
    """Seeded. A header either is refused in a line, or describes what there is."""
    folder = write_tiny(tmp_path / "tiny")
    path = folder / WEIGHTS
    good = path.read_bytes()
    (length,) = struct.unpack("<Q", good[:8])
    before = inspect_checkpoint(folder)[0]
    draw, refused = random.Random(5), 0
    for _ in range(count):
        bad = bytearray(good)
        for _ in range(draw.choice((1, 1, 2, 8))):
            bad[draw.randrange(8 + length)] = draw.choice(b'0123456789{}[],:"eE-\\ntru\xff\x00 ')
        path.write_bytes(bad[: draw.choice((len(bad), len(bad), draw.randrange(len(bad))))])
        try:
            assert inspect_checkpoint(folder)[0] == before
        except CheckpointError as error:
            refused += 1
            assert "\n" not in str(error)
    assert 0.5 * count < refused < count
