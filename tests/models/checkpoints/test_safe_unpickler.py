"""Pickles that take for ever, or all memory, where they are loaded as Python loads pickles."""

from __future__ import annotations

import os
import pickle
import resource
import socket
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from models.checkpoints import safe_unpickler
from models.checkpoints.convert import convert
from models.errors import CheckpointError, UnsupportedConfig
from models.families.dit_config import DiTConfig
from models.images.layout import ImageShape
from models.printable import json_line, printable


def torch_file(path: Path, program: bytes) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", program)
        archive.writestr("archive/version", "3")
    return path


def doubled(times: int) -> bytes:
    """A tuple of twice the same tuple of twice the same tuple ..."""
    return b")" + b"".join(b"q%ch%c\x86" % (i, i) for i in range(times))


def nested(depth: int) -> bytes:
    return b")" + b"\x85" * depth


BOMBS = {
    "shared tuples as a key": b"\x80\x02}" + doubled(60) + b"K\x01s.",
    "shared tuples as keys": b"\x80\x02}(" + doubled(60) + b"K\x01u.",
    "shared tuples of a dict": b"\x80\x02(" + doubled(60) + b"K\x01d.",
    "shared tuples in a set": b"\x80\x04\x8f(" + doubled(60) + b"\x90.",
    "shared tuples in a frozen set": b"\x80\x04(" + doubled(60) + b"\x91.",
    "nesting in a key": b"\x80\x02}" + nested(900_000) + b"K\x01s.",
    "nesting in a set": b"\x80\x04\x8f(" + nested(900_000) + b"\x90.",
    "an ordered dict of such items": (
        b"\x80\x02ccollections\nOrderedDict\n]](" + doubled(60) + b"K\x01ea\x85R."
    ),
    "a memo of 2^31": b"\x80\x02}r\xff\xff\xff\x7f.",
    "bytes of 2^40": b"\x80\x05\x96" + (1 << 40).to_bytes(8, "little") + b".",
    "many steps": b"\x80\x04" + b"\x8f" * (safe_unpickler.MOST_STEPS + 1) + b".",
    "a long program": b"\x80\x02" + b"N0" * safe_unpickler.LONGEST_PROGRAM + b"}.",
}


def memory() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10


SLOW = pytest.param("nesting in a set", marks=pytest.mark.slow)


@pytest.mark.parametrize("name", [SLOW if n == "nesting in a set" else n for n in BOMBS])
def test_a_pickle_that_is_a_bomb_is_refused_in_bounded_time(tmp_path, name):
    source = torch_file(tmp_path / "last.ckpt", BOMBS[name])
    before, begun = memory(), time.monotonic()
    with pytest.raises(CheckpointError) as caught:
        convert(source, tmp_path / "made")
    assert "\n" not in str(caught.value) and not (tmp_path / "made").exists()
    assert time.monotonic() - begun < 15
    assert memory() - before < 512 << 20


def a_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(str(path))


@pytest.mark.parametrize("make", [os.mkfifo, a_socket, lambda path: path.symlink_to("/dev/zero")])
def test_what_is_no_file_is_not_opened(tmp_path, make: Callable[[Path], None]):
    place = tmp_path / "s"
    make(place)
    for options in ({}, {"decoder": place}):
        with pytest.raises(CheckpointError):
            convert(place, tmp_path / "made", **options)


@pytest.mark.parametrize("length", [10**12, 1 << 24])
def test_a_canvas_too_long_is_refused_by_its_field(length):
    sizes = {"vocab_size": 50, "hidden_dim": 32, "cond_dim": 8, "n_blocks": 1, "n_heads": 4}
    ids = {"mask_token_id": 40, "eos_token_id": 0}
    with pytest.raises(UnsupportedConfig, match="model_length"):
        DiTConfig.from_dict({**sizes, **ids, "model_length": length})


def test_an_image_too_large_is_refused_by_its_field():
    shape = {"channels": 1, "tokens": "grey levels", "levels": 16}
    with pytest.raises(UnsupportedConfig, match="image"):
        ImageShape.from_dict({**shape, "height": 10**9, "width": 10**9})


def test_printed_text_steers_no_terminal():
    text = "a\x1b[31m\r\x07\x9b2J\u202eb\ud800\n é 😀\u200d👩 \u200c"
    shown = printable(text, keep="\n")
    assert shown == "a\\x1b[31m\\r\\x07\\x9b2J\\u202eb\\ud800\n é 😀\u200d👩 \u200c"
    assert "\x9b" not in json_line({"a": text}) and "é" in json_line({"a": text})


def test_pickles_that_torch_writes_are_read(tmp_path):
    program = pickle.dumps({"state_dict": {"a": 1}, 3: {"b": [1.5, None, True]}}, 2)
    with safe_unpickler.opened(torch_file(tmp_path / "a.ckpt", program)) as file:
        assert file.content == {"state_dict": {"a": 1}, 3: {"b": [1.5, None, True]}}
