"""Official runs of DiffusionGemma, stored ones and runs of transformers' class, step by step, from
their random numbers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers.models.diffusion_gemma.generation_diffusion_gemma import (
    EntropyBoundSamplerConfig,
)

from models.checkpoints.load import load_network
from models.families.diffusion_gemma import DiffusionGemma
from sampler import make_params
from sampler.logits.row_requests import RowQuery
from sampler.samplers.entropy_bound import EntropyBound
from sampler.step import take_step
from tests.conftest import load_golden
from tests.support.caching import begun
from tests.support.canvases import Canvas, denoised, remembered
from tests.support.official_gemma import VOCAB, OfficialGemma
from tests.support.published import write_folder

GEN = load_golden("families/diffusiongemma_gen")
STORED_VOCAB = 64
ROWS = [
    pytest.param(case, row, id=f"{case} {row}")
    for case, meta in GEN.meta["cases"].items()
    for row in range(meta["batch"])
]


@dataclass(frozen=True)
class Replayed(EntropyBound):
    """Takes the tokens and the noise of an official run: each uniform lies in the middle of the
    token's share of the distribution that the official code drew from.
    """

    run: dict[str, Tensor] = field(default_factory=dict)
    row: int = 0
    step: list[int] = field(default_factory=list)

    def query(self, layout, tokens, proposal, rows) -> RowQuery:
        asked = super().query(layout, tokens, proposal, rows)
        logits = self.run["raw_logits"][self.step[0], self.row].double()
        p = (logits / asked.temperature[:, None]).softmax(-1)
        token = self.run["denoiser_canvas"][self.step[0], self.row][:, None]
        upto, own = p.cumsum(-1).gather(1, token)[:, 0], p.gather(1, token)[:, 0]
        return replace(asked, u=upto - own / 2)

    def noise(self, rows) -> Tensor:
        return self.run["renoise_canvas"][self.step[0], self.row]


@pytest.fixture(scope="module")
def network(tmp_path_factory) -> DiffusionGemma:
    weights = load_golden("families/diffusiongemma_tiny")
    loaded = load_network(write_folder(tmp_path_factory.mktemp("gen") / "tiny", weights))
    assert isinstance(loaded, DiffusionGemma)
    return loaded


def run_of(case: str) -> dict[str, Tensor]:
    return {n.removeprefix(f"{case}."): t for n, t in GEN.tensors.items() if n.startswith(case)}


def prompt_of(run: dict[str, Tensor], meta: dict, row: int) -> Tensor:
    return run["input_ids"][row, (meta.get("pads") or [0] * meta["batch"])[row] :]


def official_p(run: dict[str, Tensor], meta: dict, step: int, row: int) -> Tensor:
    """The distributions [C, V] of a step, at its temperature."""
    left = float(run["cur_step"][step]) / meta["max_denoising_steps"]
    heat = meta["t_min"] + (meta["t_max"] - meta["t_min"]) * left
    return (run["raw_logits"][step, row] / heat).softmax(-1)


@pytest.mark.parametrize(("case", "row"), ROWS)
def test_official_runs_step_by_step(network, case, row):
    meta, run = GEN.meta["cases"][case], run_of(case)
    prompt = prompt_of(run, meta, row).tolist()
    taken = replay(network, STORED_VOCAB, run, meta, prompt, row)
    least = len(run["init_canvas"]) * (meta["stability_threshold"] > 0)
    assert taken >= least or meta["eos_token_id"]


def replay(
    network: DiffusionGemma,
    vocab: int,
    run: dict[str, Tensor],
    meta: dict,
    prompt: list[int],
    row: int = 0,
    anchored: bool = False,
    pins: Sequence[int] = (),
) -> int:
    """Repeat a run from its random numbers and compare each step; the number of steps.

    ``anchored``: each step reads the mean embeddings of the official logits of the step before, so
    that errors of rounding do not grow from step to step. ``pins``: positions of the first canvas
    that keep their tokens.
    """
    size, canvases = len(prompt), len(run["init_canvas"])
    length = run["init_canvas"].shape[-1]
    params = make_params(
        "entropy_bound",
        block_length=length,
        steps=4096,
        stop_entropy=meta["confidence_threshold"],
        **{n: meta[n] for n in ("max_denoising_steps", "t_min", "t_max")},
        **{n: meta[n] for n in ("entropy_bound", "stability_threshold")},
    )
    new = length * canvases
    canvas = [*prompt, *[0] * new], [False] * size + [True] * new, params
    network.reserve(size + new)
    pinned = np.isin(np.arange(size + new), [size + at for at in pins])
    _, batch = begun(network, None, [canvas], opening=(pinned, pinned) if pins else None)
    tokens = torch.cat((torch.tensor(prompt), run["init_canvas"][:, row].flatten()))
    batch, step = replace(batch.with_tokens(tokens), noise=batch.noise), [0]
    sampler = Replayed(vocab, None, run=run, row=row, step=step)
    taken, settled = 0, 0
    for index in range(canvases):
        own = slice(size + length * index, size + length * (index + 1))
        mine = (run["step_canvas"] == index).nonzero()[:, 0].tolist()
        for i in mine:
            if run["finished_before"][i, row]:
                continue
            step[0], before = i, batch
            assert torch.equal(batch.tokens[own], run["current_canvas"][i, row])
            result = take_step(sampler, network, batch)
            batch, taken, settled = result.batch, taken + 1, int(result.settled)
            if anchored:
                p, phase = official_p(run, meta, i, row), int(before.own.phase)
                remembered(network, p, range(own.start, own.stop), phase + 1)
            assert int(batch.own.canvas) == index + int(
                run["finished_after"][i, row] or i == mine[-1]
            )
            # the prompt, or the canvas before, is encoded once
            assert result.run == length + int(before.own.phase == 0) * (length if index else size)
        assert torch.equal(batch.tokens[own], run["argmax_canvas"][mine[-1], row])
        assert settled == own.stop
        if set(batch.tokens[own].tolist()) & set(meta["eos_token_id"] or ()):
            break
    return taken


@pytest.mark.filterwarnings("ignore:.torch.jit.script_method. is deprecated")  # torch's own import
@pytest.mark.parametrize(
    ("seed", "pins"), [(0, {}), (1, {}), (2, {}), (1, {0: 7, 5: 40}), (2, {3: 1, 4: 95, 9: 0})]
)
def test_runs_of_transformers_class_step_by_step(tmp_path, seed, pins):
    """Three networks of other sizes, each with three canvases and settings of its own; and with a
    draft of the first canvas, some of whose tokens are pinned.
    """
    theirs = OfficialGemma.small(seed)
    theirs.save_pretrained(tmp_path / "theirs")
    ours = load_network(tmp_path / "theirs")
    assert isinstance(ours, DiffusionGemma)
    meta = {
        "max_denoising_steps": 6 + 3 * seed,
        "t_min": 0.1 + 0.1 * seed,
        "t_max": 0.7 + 0.2 * seed,
        "stability_threshold": seed,
        "confidence_threshold": 1.0,
        "eos_token_id": None,
    }
    bound = 1.0 + 4.0 * seed
    prompt = torch.randint(VOCAB, (6 + 5 * seed,), generator=torch.Generator().manual_seed(seed))
    draft = torch.randint(VOCAB, (8 + seed,), generator=torch.Generator().manual_seed(9))
    for at, id_ in pins.items():
        draft[at] = id_
    run = theirs.run(
        prompt,
        seed,
        draft if pins else None,
        pins,
        max_new_tokens=3 * (8 + seed),
        sampler_config=EntropyBoundSamplerConfig(entropy_bound=bound),
        **meta,
    )
    assert torch.equal(
        run["committed"][:, 0],
        torch.stack([run["argmax_canvas"][run["step_canvas"] == k][-1, 0] for k in range(3)]),
    )
    taken = replay(
        ours,
        VOCAB,
        run,
        meta | {"entropy_bound": bound},
        prompt.tolist(),
        anchored=True,
        pins=[*pins],
    )
    assert taken == len(run["step_canvas"])


@pytest.mark.parametrize("case", ["c00", "c02", "c03"])
def test_logits_of_official_runs_are_told_from_those_of_the_step_before(network, case):
    """Self-conditioning makes small errors larger, so each step begins with the official logits."""
    meta, run = GEN.meta["cases"][case], run_of(case)
    prompt = prompt_of(run, meta, 0)
    first = (run["step_canvas"] == 0).nonzero()[:, 0].tolist()[:8]
    for i in first:
        network.reserve(64)
        if i:
            p = official_p(run, meta, i - 1, 0)
            remembered(network, p, range(len(prompt), len(prompt) + 12), i)
        _, (logits,) = denoised(network, Canvas(prompt, run["current_canvas"][i, 0], 0, phase=i))
        assert (logits - run["raw_logits"][i, 0]).abs().max() < 1e-4
