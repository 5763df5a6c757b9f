"""Published forms become folders; hostile and damaged files become one line and nothing else."""

from __future__ import annotations

import builtins
import contextlib
import io
import json
import operator
import os
import pickle
import re
import struct
import zipfile
from collections import OrderedDict
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from typer.testing import CliRunner

from models.checkpoints.convert import convert
from models.checkpoints.load import inspect_checkpoint, load_checkpoint
from models.checkpoints.random_init import parse_fields, write_random
from models.checkpoints.safe_unpickler import Inert, opened
from models.errors import CheckpointError
from models.families.dit import INV_FREQ, DiT, parameter_names
from models.families.dit_config import DiTConfig
from models.families.llada_config import SHAPES
from server.cli.app import app
from server.engine.request_params import ANY_KIND

SIZES = {
    "model_length": 64,
    "n_heads": 4,
    "n_blocks": 2,
    "hidden_dim": 32,
    "cond_dim": 16,
    "vocab_size": 41,
    "mask_token_id": 40,
    "eos_token_id": 0,
}
IDS = {"mask_token_id": 40, "eos_token_id": 0}
TOLD = {"model_length": 64, "n_heads": 4, **IDS}


class Config:
    """Looks like OmegaConf's containers from outside; must never be rebuilt by a reader."""

    def __init__(self, content: dict[str, object]) -> None:
        self._content, self._parent = content, self

    def __setstate__(self, state: object) -> None:
        raise AssertionError("a pickled object was built")


class Leaf:
    def __init__(self, value: object) -> None:
        self._val = value

    def __setstate__(self, state: object) -> None:
        raise AssertionError("a pickled object was built")


def leaves(**values: object) -> Config:
    return Config({name: Leaf(value) for name, value in values.items()})


def weights_of(seed: int) -> dict[str, Tensor]:
    torch.manual_seed(seed)
    state = DiT(DiTConfig.from_dict(SIZES)).state_dict()
    return {name: tensor.clone() for name, tensor in state.items()}


@pytest.fixture(scope="module")
def trained() -> dict[str, Tensor]:
    return weights_of(1)


@pytest.fixture(scope="module")
def average() -> dict[str, Tensor]:
    return weights_of(2)


def backbone(state: dict[str, Tensor]) -> dict[str, Tensor]:
    frequencies = 10_000.0 ** -(torch.arange(0, 8, 2) / 8)
    return {f"backbone.{name}": t for name, t in (state | {INV_FREQ: frequencies}).items()}


def listed(state: dict[str, Tensor]) -> dict[str, object]:
    shadows = [state[name] for name in parameter_names(2)]
    return {"decay": 0.9999, "num_updates": 7, "shadow_params": shadows}


def lightning(trained: dict[str, Tensor], average: dict[str, Tensor], **algo: object):
    """A training checkpoint with all that surrounds the weights."""
    codec = {"image_tokenizer.vae.quantize.codebook_used": torch.zeros(3, dtype=torch.int64)}
    parts = {"model": leaves(length=64, n_heads=4), "algo": leaves(k1=0.1, **algo)}
    return {
        "state_dict": OrderedDict(backbone(trained) | codec),
        "ema": listed(average),
        "hyper_parameters": {"config": Config({**parts}), "tokenizer": leaves(), "vocab_size": 41},
        "optimizer_states": [{"state": {0: {"step": torch.tensor(1.0)}}}],
        "callbacks": {},
        "sampler": {"random_state": None},
        "pytorch-lightning_version": "2.0.0",
        "epoch": 3,
    }


def logits(model) -> Tensor:
    tokens, offsets = torch.arange(30), torch.tensor([0, 11, 30])
    return model.head(model.trunk(tokens, offsets))


def expected(state: dict[str, Tensor]) -> Tensor:
    model = DiT(DiTConfig.from_dict(SIZES)).requires_grad_(False)
    model.load_state_dict(state)
    model.fold()
    return logits(model)


def write_folder(folder: Path, state: dict[str, Tensor], shards: int = 1) -> Path:
    """A folder as third parties publish it."""
    folder.mkdir()
    named = backbone(state)
    config = {"model_type": "xdlm-owt", "auto_map": {"AutoModel": "evil.Evil"}, **SIZES}
    (folder / "config.json").write_text(json.dumps(config | {"cond_dim": 129, "dropout": 0.1}))
    if shards == 1:
        save_file(named, folder / "model.safetensors")
        return folder
    placed = {}
    for shard in range(shards):
        part = dict(list(named.items())[shard::shards])
        save_file(part, folder / f"model-{shard}.safetensors")
        placed |= dict.fromkeys(part, f"model-{shard}.safetensors")
    index = {"weight_map": placed}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return folder


def test_folders_and_flat_files(tmp_path, trained):
    flat = tmp_path / "weights.bin"  # the name says nothing
    save_file(backbone(trained), flat)
    sources = [(flat, TOLD), (write_folder(tmp_path / "one", trained), {})]
    sources += [(write_folder(tmp_path / "three", trained, shards=3), {})]
    for i, (source, told) in enumerate(sources):
        made = tmp_path / f"made-{i}"
        info = convert(source, made, mixing_ratio=0.5, config=told)
        loaded = load_checkpoint(made)
        assert torch.equal(logits(loaded.model), expected(trained))
        assert loaded.defaults == {"sampler": "ancestral", "mixing_ratio": 0.5}
        assert (info.name, info.family, info.mask_id, info.max_length) == (made.name, "dit", 40, 64)
        assert json.loads((made / "config.json").read_text()) == {"model_type": "dit", **SIZES}
        assert INV_FREQ not in load_file(made / "model.safetensors")


def test_a_training_checkpoint(tmp_path, trained, average):
    """Averaged weights unless asked otherwise; noise and sizes from the pickled configuration."""
    source = tmp_path / "last.ckpt"
    torch.save(lightning(trained, average, time_conditioning=False), source)
    for raw, state in ((False, average), (True, trained)):
        made = tmp_path / f"made-{raw}"
        convert(source, made, raw=raw, config=IDS)
        loaded = load_checkpoint(made)
        assert torch.equal(logits(loaded.model), expected(state))
        assert loaded.defaults["mixing_ratio"] == 0.1 and loaded.info.max_length == 64
    content = lightning(trained, average) | {"ema": None, "hyper_parameters": {}}
    torch.save(content, source)
    convert(source, tmp_path / "no-average", mixing_ratio=0.2, config={"model_length": 64, **IDS})
    assert torch.equal(logits(load_checkpoint(tmp_path / "no-average").model), expected(trained))


@pytest.mark.parametrize(
    ("name", "defaults"),
    [
        ("xdlm", {"sampler": "ancestral", "mixing_ratio": 0.1}),
        ("mdlm", {"sampler": "ancestral", "mixing_ratio": 0.0}),
        ("udlm", {"sampler": "ancestral", "mixing_ratio": 1.0}),
        ("gidd", {"sampler": "gidd", "mixing_ratio": 0.0}),
    ],
)
def test_the_noise_a_model_was_trained_with(tmp_path, trained, average, name, defaults):
    source = tmp_path / "last.ckpt"
    torch.save(lightning(trained, average, name=name), source)
    convert(source, tmp_path / "made", config=IDS)
    assert inspect_checkpoint(tmp_path / "made")[1] == defaults
    convert(source, tmp_path / "told", mixing_ratio=0.5, config=IDS)
    assert inspect_checkpoint(tmp_path / "told")[1]["mixing_ratio"] == 0.5


def test_an_average_alone(tmp_path, average):
    """Without a name in it: the names come from the order, the sizes from the shapes."""
    source = tmp_path / "ema.pt"
    torch.save({"ema": listed(average)}, source)
    made = tmp_path / "made"
    convert(source, made, mixing_ratio=0.1, config=TOLD)
    assert torch.equal(logits(load_checkpoint(made).model), expected(average))
    with pytest.raises(CheckpointError, match="no state_dict in it"):
        convert(source, tmp_path / "raw", raw=True)


def test_half_precision_and_views_keep_their_values(tmp_path, average):
    state = {name: t.to(torch.bfloat16) for name, t in average.items()}
    wide = torch.arange(2.0 * 32 * 32).reshape(32, 64).to(torch.bfloat16)
    state["blocks.0.attn_out.weight"] = wide[:, 32:].t()
    torch.save({"ema": listed(state)}, tmp_path / "ema.pt")
    convert(tmp_path / "ema.pt", tmp_path / "made", mixing_ratio=0.1, config=TOLD)
    written = load_file(tmp_path / "made" / "model.safetensors")
    for name, tensor in state.items():
        assert written[name].dtype == torch.bfloat16 and torch.equal(written[name], tensor), name


def test_a_llada_folder(tmp_path):
    shape = SHAPES["tiny"] | {"max_sequence_length": 64}
    write_random(tmp_path / "llada", shape, dtype=torch.float32, shard_bytes=100_000)
    info = convert(tmp_path / "llada", tmp_path / "made")
    before, after = (load_checkpoint(tmp_path / name) for name in ("llada", "made"))
    assert info.family == "llada" and before.defaults == after.defaults
    assert torch.equal(logits(before.model), logits(after.model))
    path = tmp_path / "llada" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"model_type": "gpt2"}))
    with pytest.raises(CheckpointError, match="model_type is 'gpt2'"):
        convert(tmp_path / "llada", tmp_path / "other")


def refuse(source: Path, words: str, **options) -> None:
    """One line, and nothing new on the disk."""
    before = sorted(source.parent.iterdir())
    options = {"mixing_ratio": 0.1, "config": TOLD} | options
    with pytest.raises(CheckpointError, match=words) as caught:
        convert(source, source.parent / "made", **options)
    assert len(str(caught.value).splitlines()) == 1
    assert sorted(source.parent.iterdir()) == before


def test_what_is_not_known_is_asked_for_by_name(tmp_path, trained, average):
    source = tmp_path / "ema.pt"
    torch.save({"ema": listed(average)}, source)
    refuse(source, "mixing_ratio", mixing_ratio=None)
    for ratio in (-0.1, 1.5, float("nan")):
        refuse(source, "mixing_ratio", mixing_ratio=ratio)
    for field in TOLD:
        refuse(source, field, config={k: v for k, v in TOLD.items() if k != field})
    refuse(source, "vocab_size is 40", config=TOLD | {"vocab_size": 40})
    torch.save(lightning(trained, average, time_conditioning=True), source)
    refuse(source, "time_conditioning")
    torch.save(lightning(trained, average, causal_attention=True), source)
    refuse(source, "causal_attention")
    strange = lightning(trained, average)
    strange["hyper_parameters"]["config"] = leaves(algo="k1")
    torch.save(strange, source)
    refuse(source, "mixing_ratio", mixing_ratio=None)


def test_lists_that_are_not_a_dits(tmp_path, average):
    source = tmp_path / "ema.pt"

    def claim(shadows: object, words: str) -> None:
        torch.save({"ema": {"decay": 0.9, "shadow_params": shadows}}, source)
        refuse(source, words)

    names = parameter_names(2)
    whole = [average[name] for name in names]
    claim(whole[:-1], "29 shadow_params")
    claim([*whole, torch.zeros(41)], r"is \[")
    claim([*whole, *2 * [torch.zeros(41)]], "32 shadow_params")
    claim([], "0 shadow_params")
    claim(None, "no list of shadow_params")
    place = names.index("blocks.0.attn_out.weight")
    for wrong in (torch.zeros(16, 64), torch.zeros(1024), torch.zeros(32, 33)):
        claim([*whole[:place], wrong, *whole[place + 1 :]], r"blocks.0.attn_out.weight is \[")
    swapped = list(whole)
    swapped[0], swapped[1] = swapped[1], swapped[0]
    claim(swapped, "not a DiT's")
    swapped = list(whole)
    swapped[place - 1], swapped[place] = swapped[place], swapped[place - 1]
    claim(swapped, r"attn_qkv.weight is \[32, 32\], expected \[96, 32\]")
    claim([*whole[:place], 3.0, *whole[place + 1 :]], "blocks.0.attn_out.weight is no dense tensor")
    claim([*whole[:place], whole[place].long(), *whole[place + 1 :]], "no dense tensor of floats")
    claim([*whole[:place], whole[place].to_sparse(), *whole[place + 1 :]], "no dense tensor")
    claim([*whole[:-1], torch.full((64,), torch.nan)], "not finite")


def test_named_weights_that_do_not_fit(tmp_path, trained):
    source = tmp_path / "last.ckpt"

    def claim(words: str, **changes: object) -> None:
        torch.save({"state_dict": backbone(trained) | changes}, source)
        refuse(source, words)

    norm = {"backbone.blocks.0.norm1.weight": torch.zeros(31)}
    claim(r"norm1.weight is \[31\], expected \[32\]", **norm)
    claim("1 unknown tensors, first spare", spare=torch.zeros(1))
    claim("spare is no dense tensor", spare="a string")
    claim("two tensors are named blocks", **{"blocks.0.norm1.weight": torch.zeros(32)})
    claim("inv_freq is not what", **{f"backbone.{INV_FREQ}": torch.ones(4)})
    claim("one line", **{"one\nline\x1b[31m": torch.zeros(1)})
    for content in ({"state_dict": [1]}, [1, 2], {"model": backbone(trained)}):
        torch.save(content, source)
        refuse(source, "neither state_dict nor ema")


def truncations(path: Path) -> None:
    whole = path.read_bytes()
    for share in (0.0, 0.001, 0.1, 0.5, 0.9, 0.999):
        path.write_bytes(whole[: int(len(whole) * share)])
        refuse(path, path.name)
    path.write_bytes(whole)


def test_truncated_files(tmp_path, trained, average):
    torch.save(lightning(trained, average), tmp_path / "last.ckpt")
    truncations(tmp_path / "last.ckpt")
    save_file(backbone(trained), tmp_path / "flat.safetensors")
    truncations(tmp_path / "flat.safetensors")
    folder = write_folder(tmp_path / "shards", trained, shards=2)
    shard = folder / "model-1.safetensors"
    shard.write_bytes(shard.read_bytes()[:-64])
    refuse(folder, "model-1.safetensors")
    refuse(tmp_path / "nowhere.ckpt", "No such file")
    (tmp_path / "old.pt").write_bytes(pickle.dumps(average))
    refuse(tmp_path / "old.pt", "bare pickle")
    (tmp_path / "text").write_text("a text that is long enough")
    refuse(tmp_path / "text", "neither safetensors nor")


def test_header_with_wrong_sizes_is_refused(tmp_path, trained):
    source = tmp_path / "flat.safetensors"
    save_file(backbone(trained), source)
    whole = source.read_bytes()
    (length,) = struct.unpack("<Q", whole[:8])
    name = "backbone.blocks.0.attn_out.weight"
    for change in ({"shape": [1 << 40, 32]}, {"data_offsets": [0, 1 << 62]}, {"dtype": "F16"}):
        header = json.loads(whole[8 : 8 + length])
        header[name] |= change
        text = json.dumps(header).encode()
        source.write_bytes(struct.pack("<Q", len(text)) + text + whole[8 + length :])
        refuse(source, "flat.safetensors")
    source.write_bytes(struct.pack("<Q", 1 << 62) + whole[8:])
    refuse(source, "flat.safetensors")


def rewritten(path: Path, change) -> None:
    """The same zip file, each part as ``change(name, bytes)`` says; None leaves it out."""
    with zipfile.ZipFile(path) as old:
        parts = {name: change(name, old.read(name)) for name in old.namelist()}
    with zipfile.ZipFile(path, "w") as new:
        for name, data in parts.items():
            if data is not None:
                new.writestr(name, data)


def test_storages_that_are_not_what_the_pickle_says(tmp_path, average):
    source = tmp_path / "ema.pt"

    def claim(words: str, change) -> None:
        torch.save({"ema": listed(average)}, source)
        rewritten(source, change)
        refuse(source, words)

    claim("holds", lambda name, data: data[:-4] if name.endswith("/data/0") else data)
    claim("is missing", lambda name, data: None if name.endswith("/data/0") else data)
    claim("not one of torch.save", lambda name, data: None if "data.pkl" in name else data)
    claim("little-endian", lambda name, data: b"big" if name.endswith("byteorder") else data)
    torch.save({"ema": listed(average)}, source)
    with zipfile.ZipFile(source) as archive:
        place = archive.getinfo("ema/data/0").header_offset + 512
    data = bytearray(source.read_bytes())
    data[place] ^= 0xFF
    source.write_bytes(data)
    refuse(source, "damaged")
    with zipfile.ZipFile(source, "w", zipfile.ZIP_DEFLATED) as bomb:
        bomb.writestr("ema/data.pkl", b"(" * 10_000_000)
    refuse(source, "compressed")


class Lie:
    """A tensor that is not where it says."""

    def __init__(self, offset: object, size: object, stride: object) -> None:
        self.claims = (offset, size, stride)

    def __reduce__(self):
        storage = torch.zeros(1024)._typed_storage()
        rebuild = torch._utils._rebuild_tensor_v2  # pyright: ignore[reportAttributeAccessIssue]
        return rebuild, (storage, *self.claims, False, OrderedDict())


@pytest.mark.parametrize(
    ("offset", "size", "stride"),
    [
        (1, (32, 32), (32, 1)),
        (0, (32, 32), (33, 1)),
        (-1, (32, 32), (32, 1)),
        (0, (32, 32), (32,)),
        (0, (-32, -32), (32, 1)),
        (0, (32, 32), (-32, 1)),
        (0, (1 << 40, 1 << 40), (0, 0)),
        (0, (32, 32), (1 << 62, 1)),
        (0, (32.0, 32.0), (32, 1)),
        ("0", (32, 32), (32, 1)),
        (0, [32, 32], (32, 1)),
    ],
)
def test_tensors_that_reach_past_their_storage(tmp_path, average, offset, size, stride):
    shadows = [average[name] for name in parameter_names(2)]
    place = parameter_names(2).index("blocks.0.attn_out.weight")
    source = tmp_path / "ema.pt"
    torch.save({"ema": {"shadow_params": shadows}}, source)
    shadows[place] = Lie(offset, size, stride)  # type: ignore[call-overload]
    torch.save({"ema": {"shadow_params": shadows}}, source)
    refuse(source, "blocks.0.attn_out.weight")


class Calls:
    """Pickled as a call of a function."""

    def __init__(self, function, *arguments: object) -> None:
        self.call = (function, arguments)

    def __reduce__(self):
        return self.call


def attacks(canary: Path) -> list[Calls]:
    touch = f"__import__('pathlib').Path({str(canary)!r}).touch()"
    return [
        Calls(os.system, f"touch {canary}"),
        Calls(builtins.eval, touch),
        Calls(builtins.exec, touch),
        Calls(operator.methodcaller, "touch"),
        Calls(getattr, "text", "upper"),
        Calls(torch.load, str(canary)),
        Calls(open, str(canary), "w"),
    ]


def test_pickled_calls_never_run(tmp_path, trained, average):
    """Beside the weights they are passed over; among them they are no tensors."""
    canary, source = tmp_path / "canary", tmp_path / "evil.ckpt"
    pickle.loads(pickle.dumps(attacks(canary)[0]))  # what would happen
    canary.unlink()
    for i, attack in enumerate(attacks(canary)):
        content = lightning(trained, average) | {"callbacks": {"evil": attack}}
        torch.save(content, source)
        convert(source, tmp_path / f"made-{i}", config=IDS)
        content["state_dict"]["backbone.vocab_embed.embedding"] = attack
        torch.save(content, source)
        refuse(source, "vocab_embed.embedding is no dense tensor", raw=True)
        torch.save(attack, source)
        refuse(source, "neither state_dict nor ema")
        assert not canary.exists()


def write_program(path: Path, program: bytes) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("evil/data.pkl", program)
    return path


@pytest.mark.parametrize(
    "program",
    [
        b"cos\nsystem\n(S'touch CANARY'\ntR.",  # GLOBAL, REDUCE
        b"(S'touch CANARY'\nios\nsystem\n.",  # INST
        b"(cos\nsystem\nS'touch CANARY'\no.",  # OBJ
        b"\x80\x04\x8c\x02os\x8c\x06system\x93\x8c\x0ctouch CANARY\x85R.",  # STACK_GLOBAL
        b"\x80\x02cos\nsystem\nX\x0c\x00\x00\x00touch CANARY\x85\x81.",  # NEWOBJ
        b"\x80\x04cos\nsystem\n)}\x92.",  # NEWOBJ_EX
        b"cos\nsystem\n)R}X\x01\x00\x00\x00aNsb.",  # BUILD
        b"cos\nsystem\n}X\x01\x00\x00\x00aNsb.",  # BUILD on what stands for a class
        b"cos\nsystem\n)R(K\x01K\x02e.",  # APPENDS
        b"cos\nsystem\n)RK\x01a.",  # APPEND
        b"cos\nsystem\n)R(K\x01K\x02u.",  # SETITEMS
        b"\x80\x04cos\nsystem\n)R(K\x01K\x02\x90.",  # ADDITEMS
        b"ctorch._utils\n_rebuild_tensor_v2\n}X\x08\x00\x00\x00__call__Nsb.",  # BUILD on ours
        b"ctorch._utils\n_rebuild_tensor_v2\n(N}X\x04\x00\x00\x00_runNstb.",
        b"ccollections\nOrderedDict\n}X\x05\x00\x00\x00itemsNsb.",
        b"ctorch\nFloatStorage\n)R.",
        b"ctorch\nSize\n}X\x01\x00\x00\x00aNsb.",
        b"\x80\x02\x82\x01.",  # EXT1
        b"Pa name\n.",  # PERSID
        b"(((((tQ.",  # BINPERSID
        b"\x80\x04N\x94r\xff\xff\xff\xff.",  # a memo of 64 GiB
        b"\x80\x04\x8e\xff\xff\xff\xff\xff\xff\xff\x7f.",  # bytes that are not there
        b"\x80\x04\x8a\xff.",  # LONG1 cut short
        b"",
        b".",
        b"\x80\xff.",
        b"]" * 100_000 + b"a" * 99_999 + b".",  # nested deeply
    ],
)
def test_pickle_programs_are_harmless(tmp_path, program):
    """Each opcode that could call, build or fill something, and some that are broken."""
    source = write_program(tmp_path / "evil.ckpt", program)
    with contextlib.chdir(tmp_path):
        refuse(source, "evil.ckpt")
    assert not (tmp_path / "CANARY").exists()


def test_readers_keep_their_names_after_an_attack(tmp_path, average):
    """Programs that try to change the reader itself have changed nothing."""
    for i, name in enumerate((b"torch._utils\n_rebuild_tensor_v2", b"collections\nOrderedDict")):
        program = b"c" + name + b"\n(N}X\x0b\x00\x00\x00__setitem__Nstb."
        refuse(write_program(tmp_path / f"{i}.ckpt", program), "ckpt")
    torch.save({"ema": listed(average)}, tmp_path / "ema.pt")
    convert(tmp_path / "ema.pt", tmp_path / "made", mixing_ratio=0.1, config=TOLD)
    assert torch.equal(logits(load_checkpoint(tmp_path / "made").model), expected(average))


def test_unknown_objects_are_data(tmp_path):
    stream = tmp_path / "file.pt"
    torch.save({"config": leaves(a=1), "list": [io.BytesIO(b"x")]}, stream)
    with opened(stream) as file:
        config = file.content["config"]
        assert isinstance(config, Inert) and isinstance(config.state, dict)
        assert config.state["_content"]["a"].state == {"_val": 1}
        assert isinstance(file.content["list"][0], Inert)


def test_what_is_there_is_left_alone(tmp_path, average):
    torch.save({"ema": listed(average)}, tmp_path / "ema.pt")
    taken = tmp_path / "taken"
    taken.mkdir()
    convert(tmp_path / "ema.pt", taken, mixing_ratio=0.1, config=TOLD)  # an empty one will do
    kept = {path.name: path.read_bytes() for path in taken.iterdir()}
    with pytest.raises(CheckpointError, match="is not empty"):
        convert(tmp_path / "ema.pt", taken, mixing_ratio=0.1, config=TOLD)
    assert {path.name: path.read_bytes() for path in taken.iterdir()} == kept
    with pytest.raises(CheckpointError, match="is not a folder"):
        convert(tmp_path / "ema.pt", tmp_path / "ema.pt", mixing_ratio=0.1, config=TOLD)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["ema.pt", "taken"]


def test_the_command(tmp_path, trained, average):
    source, made = tmp_path / "last.ckpt", tmp_path / "made"
    torch.save(lightning(trained, average) | {"hyper_parameters": {}}, source)
    run = CliRunner().invoke
    told = "model_length=64,mask_token_id=40,eos_token_id=0"
    done = run(app, ["convert", str(source), str(made), "--config", told])
    assert done.exit_code == 1 and done.stdout == ""
    assert "mixing_ratio" in done.stderr and len(done.stderr.splitlines()) == 1
    assert not made.exists()
    args = ["convert", str(source), str(made), "--config", told, "--mixing-ratio", "0.1"]
    done = run(app, args)
    assert done.exit_code == 0 and "dit, " in done.stdout, done.stderr
    facts = json.loads(run(app, ["info", str(made), "--json"]).stdout)
    assert (facts["family"], facts["mask_id"], facts["mixing_ratio"]) == ("dit", 40, 0.1)
    assert facts["samplers"] == ANY_KIND.samplers
    random = ["make-random", str(tmp_path / "random"), "--family", "dit"]
    assert run(app, random).exit_code == 0
    shown = run(app, ["info", str(tmp_path / "random")]).stdout
    assert "dit" in shown and "mixing_ratio  0.1" in shown
    assert run(app, [*random[:-1], "gpt"]).exit_code == 2
    with pytest.raises(CheckpointError, match="--config"):
        parse_fields("tiny", {}, "--config")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("x", "config: 'x' is not FIELD=VALUE"),
        ("", "config: '' is not FIELD=VALUE"),
        ("=1", "config: '=1' is not FIELD=VALUE"),
        ("a=b", "config: 'b' is no value for a"),
        ("a=" + "9" * 5000, "is no value for a"),
        ("a=" + "[" * 100_000, "is no value for a"),
    ],
)
def test_a_field_that_is_none_is_refused_in_a_line(text, words):
    with pytest.raises(CheckpointError, match=re.escape(words)):
        parse_fields(text, {}, "config")
