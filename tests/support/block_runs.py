"""Official decoding runs of networks that generate in blocks, repeated by our sampler."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from models.checkpoints.load import load_network
from models.families.decoder import Decoder
from sampler import make_params
from sampler.interface import Sampler
from sampler.step import StepResult
from tests.conftest import load_golden
from tests.support.caching import begun, stepped
from tests.support.published import with_blocks, write_folder

RUNS = {
    "sdar_traj_greedy": "sdar_tiny",
    "sdar_traj_sampling": "sdar_tiny",
    "sdar_traj_engines": "sdar_tiny",
    "sdar_moe_traj": "sdar_moe_tiny",
    "llada2_traj": "llada2_tiny",
    "llada2_traj_b32": "llada2_tiny",
    "llada21_traj": "llada2_tiny",
    "llada21_traj_engines": "llada2_tiny",
    "fast_dllm_v2_traj": "fast_dllm_v2_tiny",
}
"""Files of runs, and the file of the weights of each."""
STRATEGIES = {
    "static": "low_confidence_static",
    "dynamic": "low_confidence_dynamic",
    "sequential": "sequential",
    "entropy": "entropy_bounded",
}


def names_of_runs() -> list[tuple[str, str, dict[str, Any]]]:
    """File, case, and settings of each."""
    return [
        (name, case, meta)
        for name in RUNS
        for case, meta in load_golden(f"families/{name}").meta["cases"].items()
    ]


def is_greedy(meta: dict[str, Any]) -> bool:
    """Whether the likeliest token is taken."""
    return meta.get("temperature", 0) == 0 or meta.get("top_k") == 1


def drawn_from(logits: Tensor, meta: dict[str, Any]) -> Tensor:
    """Logits [..., V] -> probabilities after a run's temperature and top-p, in float64."""
    p = (logits.double() / meta["temperature"]).softmax(-1)
    likeliest, order = p.sort(-1, descending=True)
    outside = likeliest.cumsum(-1) - likeliest > (meta.get("top_p") or 1.0)
    p = torch.zeros_like(p).scatter_(-1, order, likeliest.masked_fill(outside, 0.0))
    return p / p.sum(-1, keepdim=True)


def share_of(p: Tensor, token: int) -> float:
    """The uniform in the middle of a token's share of a distribution [V]."""
    return float(p[:token].sum() + p[token] / 2)


@dataclass(frozen=True)
class BlockRun:
    """One run: its settings, its tensors by name, its weights, and the mask of their vocabulary."""

    meta: dict[str, Any]
    tensors: dict[str, Tensor]
    network: Decoder
    mask_id: int

    @classmethod
    def of(cls, folder: Path, name: str, case: str) -> BlockRun:
        """A case of a file; ``folder`` is made."""
        weights, file = load_golden(f"families/{RUNS[name]}"), load_golden(f"families/{name}")
        meta = file.meta["cases"][case]
        network = load_network(write_folder(folder, weights))
        assert isinstance(network, Decoder)
        with_blocks(network, meta["block_length"])
        network.reserve(512)
        own = {n.removeprefix(f"{case}."): t for n, t in file.tensors.items() if case in n}
        return cls(meta, own, network, weights.meta["config"]["mask_token_id"])

    @property
    def steps(self) -> list[tuple[int, list[int], list[int]]]:
        """Active block, and its ids before and after, of each step."""
        names = ("step_block", "step_before", "step_after")
        return list(zip(*(self.tensors[n].tolist() for n in names), strict=True))

    def chosen(self, blocks: int) -> dict[str, Any]:
        """Our parameters for it."""
        meta, length = self.meta, self.meta["block_length"]
        each = meta.get("denoising_steps") or meta.get("steps") or length
        if "minimal_topk" in meta:
            each = min(each, max(1, meta["gen_length"] // meta["minimal_topk"]))
        found: dict[str, Any] = {"confidence_threshold": meta.get("threshold") or 1.0}
        if "edit_threshold" in meta:
            found |= {
                "editing_threshold": meta["edit_threshold"],
                "post_steps": meta["max_post_steps"],
                "num_to_transfer": meta.get("num_to_transfer", 1),
            }
            each = length + meta["max_post_steps"]
        if "small_block_length" in meta:
            found |= {"sub_block_length": meta["small_block_length"], "first_alone": True}
            each = 2 * length
        if meta.get("strategy") in STRATEGIES:
            found["remasking_strategy"] = STRATEGIES[meta["strategy"]]
        if meta.get("eb_threshold") and meta.get("strategy") == "entropy":
            found["entropy_bound"] = meta["eb_threshold"]
        temperature = 0.0 if is_greedy(meta) else meta["temperature"]
        if temperature > 0 and meta.get("top_p"):
            found["top_p"] = meta["top_p"]
        rules = {"top_p_rule": "crossing", "confidence_from": "draw", "block_aligned": True}
        bounds = {"steps": blocks * each, "block_length": length}
        return found | rules | bounds | {"temperature": temperature}

    def repeated(self, sampler: Sampler | None = None) -> list[StepResult]:
        """All steps of the run by our sampler, or by another one, that run the network."""
        prompt, length = self.tensors["prompt"].tolist(), self.meta["block_length"]
        new = self.meta.get("gen_length") or self.meta["max_new_tokens"]
        positions = -(-(len(prompt) + new) // length) * length
        free = positions - len(prompt)
        blocks = positions // length - len(prompt) // length
        params = make_params("threshold", **self.chosen(blocks))
        canvas = [*prompt, *[0] * free], [False] * len(prompt) + [True] * free, params
        ours, batch = begun(self.network, self.mask_id, [canvas])
        return [r for r in stepped(self.network, sampler or ours, batch) if r.head_rows]

    def states(self, results: list[StepResult]) -> list[Tensor]:
        """Ids after each step, by block; without the steps in which a block's first token is
        written alone: the official code takes it with the pass that keeps the block before.
        """
        found = [r.batch.tokens.view(-1, self.meta["block_length"]) for r in results]
        if "small_block_length" not in self.meta:
            return found
        open_ = [int((state == self.mask_id).any(1).long().argmax()) for state in found]
        alone = [
            bool((state[b, 0] != self.mask_id) & (state[b, 1:] == self.mask_id).all())
            for state, b in zip(found, open_, strict=True)
        ]
        return [state for state, first in zip(found, alone, strict=True) if not first]

    def probabilities(self, step: int) -> Tensor:
        """The distribution [L, V] that the official code drew from at a step, in float64."""
        logits = self.tensors["step_logits"][step].double()
        logits[:, self.mask_id] = -torch.inf
        return drawn_from(logits, self.meta)
