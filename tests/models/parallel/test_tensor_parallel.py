"""A network divided among processes gives what the whole one gives."""

from __future__ import annotations

import json
import os
import queue
from contextlib import suppress
from fnmatch import fnmatchcase
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from models.cache import Segments
from models.checkpoints.load import load_checkpoint, load_divided_checkpoint
from models.checkpoints.random_init import write_random
from models.errors import CheckpointError
from models.families.dit_config import DIT_SHAPES
from models.families.llada import LLaDA, LLaDAConfig
from models.families.llada_config import SHAPES
from models.parallel.tensor_parallel import check
from models.parallel.workers import Leader
from models.registry import FAMILIES, build
from tests.support.fp8 import LAYOUTS, quantise
from tests.support.ranks import unexpected

GROUPED = {"n_heads": 8, "n_kv_heads": 2}
TIED = {"weight_tying": True}


def written(folder: Path, **changes) -> Path:
    """A seeded LLaDA whose blocks have their say, with logits of a usual size."""
    write_random(folder, {**SHAPES["tiny"], **changes}, dtype=torch.float32)
    config = json.loads((folder / "config.json").read_text())
    torch.manual_seed(3)
    network = LLaDA(LLaDAConfig.from_dict(config))
    state = {n: (0.2 if "wte" in n else 2) * w for n, w in network.state_dict().items()}
    save_file(state, folder / "model.safetensors")
    return folder


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({}, id="plain"),
        pytest.param(GROUPED | TIED, id="grouped, tied"),
    ],
)
def test_two_processes_give_the_logits_of_one(tmp_path, changes):
    folder = written(tmp_path / "random", **changes)
    whole, divided = load_checkpoint(folder), load_divided_checkpoint(folder, 2, unexpected)
    assert divided.info == whole.info
    assert isinstance(divided.model, Leader)
    try:
        g = torch.Generator().manual_seed(0)
        for lengths in ([300], [5, 64, 130], [1]):
            offsets = torch.tensor([0, *lengths]).cumsum(0)
            tokens = torch.randint(512, (sum(lengths),), generator=g)
            rows = torch.randperm(len(tokens), generator=g)[: 1 + len(tokens) // 3]
            for asked in (None, rows):
                with torch.inference_mode():
                    one, two = (
                        c.model.head(c.model.trunk(tokens, offsets, asked))
                        for c in (whole, divided)
                    )
                assert 1 < one.std() < 10
                torch.testing.assert_close(two, one, rtol=0, atol=1e-4)
        whole.model.reserve(200)
        divided.model.reserve(200)
        for first, last in ((0, 90), (30, 50)):  # a whole canvas, then a part of it
            tokens = torch.randint(512, (last - first,), generator=g)
            segments = Segments(
                np.array([last - first]), np.arange(first, last), np.array([64]), np.array([90])
            )
            offsets = torch.tensor([0, last - first])
            with torch.inference_mode():
                one, two = (
                    c.model.head(c.model.trunk(tokens, offsets, segments=segments))
                    for c in (whole, divided)
                )
            torch.testing.assert_close(two, one, rtol=0, atol=1e-4)
    finally:
        divided.model.close()


MIXED = {"llada_moe": {"shared_expert_intermediate_size": 64}}


@pytest.mark.slow
@pytest.mark.parametrize("family", ["dream", "llada_moe"])
def test_two_processes_give_the_logits_of_one_of_other_families(tmp_path, family):
    folder = tmp_path / "random"
    shape = {**FAMILIES[family].shapes["tiny"], **MIXED.get(family, {})}
    write_random(folder, shape, family=family, dtype=torch.float32)
    state = load_file(folder / "model.safetensors")
    wider = {n: w * (1 if w.ndim == 1 or "embed" in n else 6) for n, w in state.items()}
    save_file(wider, folder / "model.safetensors")
    whole, divided = load_checkpoint(folder), load_divided_checkpoint(folder, 2, unexpected)
    assert isinstance(divided.model, Leader)
    try:
        tokens = torch.randint(512, (199,), generator=torch.Generator().manual_seed(0))
        offsets = torch.tensor([0, 5, 69, 199])
        with torch.inference_mode():
            one, two = (c.model.head(c.model.trunk(tokens, offsets)) for c in (whole, divided))
        assert one.std() > 0.3
        torch.testing.assert_close(two, one, rtol=0, atol=1e-4)
    finally:
        divided.model.close()


@pytest.mark.slow
@pytest.mark.parametrize(("family", "layout"), [("sdar", "block"), ("sdar_moe", "channel")])
def test_two_processes_read_fp8_as_one_does(tmp_path, family, layout):
    folder, narrow = tmp_path / "random", tmp_path / "narrow"
    write_random(folder, FAMILIES[family].shapes["tiny"], family=family, dtype=torch.float32)
    state = load_file(folder / "model.safetensors")
    wider = {n: w * (1 if w.ndim == 1 else 4) for n, w in state.items()}
    save_file(wider, folder / "model.safetensors")
    quantise(folder, LAYOUTS[layout], narrow, tmp_path / "plain")
    whole, divided = load_checkpoint(narrow), load_divided_checkpoint(narrow, 2, unexpected)
    assert isinstance(divided.model, Leader)
    try:
        tokens = torch.randint(512, (40,), generator=torch.Generator().manual_seed(0))
        with torch.inference_mode():
            one, two = (
                c.model.head(c.model.trunk(tokens, torch.tensor([0, 40]))) for c in (whole, divided)
            )
        assert one.std() > 0.3
        torch.testing.assert_close(two, one, rtol=0, atol=1e-4)
    finally:
        divided.model.close()


@pytest.mark.parametrize("family", ["sdar", "sdar_moe", "llada2_moe", "fast_dllm_v2"])
def test_every_text_family_has_a_plan_whose_patterns_fit(family):
    """The published size is divided among two ranks; each pattern names linear layers."""
    spec = FAMILIES[family]
    for name, shape in spec.shapes.items():
        built = build({"model_type": spec.published_type, **spec.random_config, **shape}, None)
        plan = check(spec, built.config, 2)
        linear = [n for n, m in built.network.named_modules() if isinstance(m, torch.nn.Linear)]
        assert plan.head in linear
        for pattern in (*plan.columns, *plan.rows):
            dense = family == "sdar_moe" and pattern.split(".")[3] == "mlp"
            assert dense or [n for n in linear if fnmatchcase(n, pattern)], (name, pattern)


def of_process(*ids: int) -> set[str]:
    """Addresses that processes listen on, without their ports."""
    inodes = set()
    for number in ids:
        for descriptor in Path(f"/proc/{number}/fd").iterdir():
            with suppress(OSError):
                inodes.add(descriptor.readlink().name.removeprefix("socket:[").rstrip("]"))
    return {
        fields[1].split(":")[0]
        for family in ("tcp", "tcp6")
        for line in Path(f"/proc/net/{family}").read_text().splitlines()[1:]
        if (fields := line.split())[3] == "0A" and fields[9] in inodes
    }


def test_ranks_listen_on_loopback_alone_and_one_that_dies_is_told_of_and_passes_fail(tmp_path):
    folder = written(tmp_path / "random")
    lost: queue.Queue[int] = queue.Queue()
    divided = load_divided_checkpoint(folder, 2, lost.put)
    assert isinstance(divided.model, Leader)
    try:
        (other,) = divided.model.ranks
        if Path("/proc/net/tcp").exists():
            found = of_process(os.getpid(), other.pid or 0)
            assert found == {"0100007F"}  # 127.0.0.1, the lowest byte first
        other.kill()
        assert lost.get(timeout=30) == 1
        with pytest.raises(RuntimeError):
            divided.model.trunk(torch.zeros(8, dtype=torch.long), torch.tensor([0, 8]))
    finally:
        divided.model.close()


@pytest.mark.parametrize(
    ("family", "shape", "ranks", "named"),
    [
        ("llada", SHAPES["tiny"], 3, "n_heads = 4"),
        ("llada", {**SHAPES["tiny"], **GROUPED}, 4, "n_kv_heads = 2"),
        ("llada", {**SHAPES["tiny"], "mlp_hidden_size": 130}, 4, "mlp_hidden_size = 130"),
        ("dit", DIT_SHAPES["tiny"], 2, "not dit"),
        ("dream", FAMILIES["dream"].shapes["tiny"], 4, "num_key_value_heads = 2"),
        (
            "llada_moe",
            {**FAMILIES["llada_moe"].shapes["tiny"], "expert_intermediate_size": 33},
            2,
            "expert_size = 33",
        ),
    ],
)
def test_what_cannot_be_divided_is_refused_by_name(tmp_path, family, shape, ranks, named):
    write_random(tmp_path / "random", shape, family=family)
    with pytest.raises(CheckpointError, match=named):
        load_divided_checkpoint(tmp_path / "random", ranks, unexpected)


def test_a_numbered_device_is_refused(tmp_path):
    write_random(tmp_path / "random", SHAPES["tiny"])
    with pytest.raises(CheckpointError, match="cpu:1"):
        load_divided_checkpoint(tmp_path / "random", 2, unexpected, device="cpu:1")
