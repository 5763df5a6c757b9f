"""Official runs of Dream with a temperature, and its runs with Fast-dLLM's caches, state by state.

The tokens are those that the official code drew: each uniform lies in the middle of that token's
share of the distribution that it drew from.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import pytest
import torch

from models.checkpoints.load import load_network
from models.families.decoder import Decoder
from sampler import make_params
from sampler.logits.row_requests import RowQuery
from sampler.samplers.dream import Dream
from sampler.samplers.threshold import Threshold
from sampler.step import take_step
from tests.conftest import load_golden
from tests.support.block_runs import drawn_from, share_of
from tests.support.caching import begun, stepped
from tests.support.published import write_folder

V, MASK = 64, 62
Uniform = Callable[[int, int], float]
"""The uniform of a pass, by its number and a position."""


@dataclass(frozen=True)
class RedrawnDream(Dream):
    uniform: Uniform = lambda number, position: 0.5

    def query(self, layout, tokens, proposal, rows) -> RowQuery:
        asked = super().query(layout, tokens, proposal, rows)
        step = int(rows.settings["step"][0]) if len(rows.at) else 0
        u = [self.uniform(step, at) for at in rows.position.tolist()]
        return replace(asked, u=torch.tensor(u, dtype=torch.float64))


@dataclass(frozen=True)
class RedrawnThreshold(Threshold):
    uniform: Uniform = lambda number, position: 0.5
    passes: list[int] = field(default_factory=list)

    def query(self, layout, tokens, proposal, rows) -> RowQuery:
        asked = super().query(layout, tokens, proposal, rows)
        u = [self.uniform(len(self.passes), at) for at in rows.position.tolist()]
        self.passes.append(len(u))
        return replace(asked, u=torch.tensor(u, dtype=torch.float64))


def network_of(folder, scale: float = 1.0) -> Decoder:
    network = load_network(write_folder(folder, load_golden("families/dream_tiny")))
    assert isinstance(network, Decoder)
    with torch.no_grad():
        network.lm_head.weight.mul_(scale)
    network.reserve(256)
    return network


@pytest.mark.parametrize("row", [0, 1])
def test_official_run_by_entropy_with_a_nucleus(tmp_path, row):
    file, name = load_golden("families/dream_gen"), "c07"
    case, network = file.meta["cases"][name], network_of(tmp_path / "dream")
    logits, drawn = (file.tensors[f"{name}.{n}"][:, row] for n in ("logits", "x0"))

    def uniform(step: int, position: int) -> float:
        return share_of(drawn_from(logits[step, position], case), int(drawn[step, position]))

    params = make_params(
        "dream",
        alg=case["alg"],
        steps=case["steps"],
        temperature=case["temperature"],
        top_p=case["top_p"],
        top_p_rule="crossing",
    )
    prompt, length = file.tensors[f"{name}.prompt"][row].tolist(), case["gen_length"]
    canvas = [*prompt, *[0] * length], [False] * len(prompt) + [True] * length, params
    _, batch = begun(network, MASK, [canvas])
    batch = replace(batch, cache=None, held=None)
    found = [batch.tokens.tolist()]
    for _ in range(case["steps"]):
        batch = take_step(RedrawnDream(V, MASK, (), uniform), network, batch).batch
        found.append(batch.tokens.tolist())
    assert found == file.tensors[f"{name}.x_traj"][:, row].tolist()


@pytest.mark.parametrize("name", ["c09", "c10", "c11"])
def test_fast_dllm_s_runs_with_a_temperature(tmp_path, name):
    file = load_golden("families/dream_fastdllm")
    case = file.meta["cases"][name]
    network = network_of(tmp_path / "dream", case.get("head_scale", 1.0))
    tensors = {n.removeprefix(f"{name}."): t for n, t in file.tensors.items() if name in n}
    prompt, length, block = tensors["prompt"][0].tolist(), case["gen_length"], case["block_length"]

    def uniform(number: int, position: int) -> float:
        start = len(prompt) + int(tensors["call_block"][number]) * block
        if not 0 <= (place := position - start) < block:
            return 0.5
        token = int(tensors["x0"][number, 0, place])
        logits = tensors["block_logits"][number, 0, place]
        return 0.5 if token < 0 else share_of(drawn_from(logits, case), token)

    params = make_params(
        temperature=case["temperature"],
        top_p=case.get("top_p", 1.0),
        top_p_rule="crossing",
        cache=case["mode"],
        block_length=block,
        first_alone=True,
        **(
            {"sampler": "dream", "alg": "entropy", "steps": case["steps"]}
            if case["alg"] == "entropy"
            else {
                "sampler": "threshold",
                "confidence_threshold": case["threshold"],
                "confidence_from": "draw",
                "steps": length,
            }
        ),
    )
    canvas = [*prompt, *[0] * length], [False] * len(prompt) + [True] * length, params
    _, batch = begun(network, MASK, [canvas])
    kind = RedrawnDream if case["alg"] == "entropy" else RedrawnThreshold
    found = [batch.tokens.tolist()]
    results = stepped(network, kind(V, MASK, (), uniform), batch)
    found += [r.batch.tokens.tolist() for r in results if r.head_rows]
    assert found == tensors["x_traj"][:, 0].tolist()
