"""Mixtures of requests that use every setting of every sampler."""

from __future__ import annotations

import random

from sampler import make_params
from sampler.registry import READERS
from tests.support.effort import THOROUGH

KINDS: dict[str, dict] = {
    "ancestral": {"sampler": "ancestral"},
    "ancestral greedy at the end": {"sampler": "ancestral", "noise_removal": "greedy"},
    "ancestral nucleus": {"sampler": "ancestral", "top_p": 0.8},
    "ancestral told": {"sampler": "ancestral", "logprobs": True},
    "ancestral guided": {"sampler": "ancestral", "guidance_scale": 2.5},
    "gidd": {"sampler": "gidd"},
    "remdm": {"sampler": "remdm", "remdm_schedule": "rescale"},
    "remdm loop": {"sampler": "remdm", "remdm_schedule": "loop", "temperature": 0.6},
    "topk": {"sampler": "topk"},
    "topk likeliest": {"sampler": "topk", "temperature": 0.0},
    "topk guided and told": {"sampler": "topk", "guidance_scale": 1.7, "logprobs": True},
    "topk nucleus and bias": {"sampler": "topk", "top_p": 0.7, "logit_bias": ((5, 2.0), (7, -1.0))},
    "topk random": {"sampler": "topk", "mixing_ratio": 0.0, "remasking": "random"},
    "topk apart": {"sampler": "topk", "spacing": 3},
    "topk official": {"sampler": "topk", "compat": "official", "block_length": 8, "steps": 12},
    "topk ends": {"sampler": "topk", "logits_eos_inf": True, "confidence_eos_eot_inf": True},
    "threshold": {"sampler": "threshold", "confidence_threshold": 0.4},
    "threshold factor": {"sampler": "threshold", "confidence_factor": 1.0},
    "threshold editing": {"sampler": "threshold", "editing_threshold": 0.2, "post_steps": 2},
    "threshold entropy": {"sampler": "threshold", "entropy_bound": 1.5, "logits_eos_inf": True},
    "threshold sequential": {"sampler": "threshold", "remasking_strategy": "sequential"},
    "threshold bounded": {
        **{"sampler": "threshold", "remasking_strategy": "entropy_bounded", "entropy_bound": 1.5},
        **{"num_to_transfer": 2, "top_p": 0.8, "top_p_rule": "crossing"},
    },
    "threshold in parts": {
        **{"sampler": "threshold", "confidence_threshold": 0.2, "confidence_from": "draw"},
        **{"sub_block_length": 8, "first_alone": True, "block_aligned": True, "masks_per_step": 2},
    },
    "dream": {"sampler": "dream"},
    "dream by margin": {"sampler": "dream", "alg": "topk_margin", "alg_temp": 0.4, "top_p": 0.9},
    "dream by chance": {"sampler": "dream", "alg": "origin", "temperature": 0.0},
    "dream by probability": {
        **{"sampler": "dream", "alg": "maskgit_plus", "top_p": 0.7, "top_p_rule": "crossing"},
        **{"first_alone": True, "block_aligned": True, "guidance_scale": 1.5},
    },
    "canvases": {"sampler": "entropy_bound", "entropy_bound": 2.0, "max_denoising_steps": 4},
    "canvases nucleus": {"sampler": "entropy_bound", "top_p": 0.9, "stop_entropy": 3.0},
    "canvases told": {"sampler": "entropy_bound", "max_denoising_steps": 3, "logprobs": True},
}

_QUICK = [
    *("ancestral greedy at the end", "ancestral guided", "gidd", "remdm loop", "topk official"),
    *("topk guided and told", "topk nucleus and bias", "topk ends", "topk apart"),
    *(
        "threshold editing",
        "threshold entropy",
        "threshold in parts",
        "dream by margin",
        "dream by probability",
    ),
    "canvases",
]
SOME_KINDS = list(KINDS) if THOROUGH else _QUICK
"""In ``make test`` every sampler, guidance, bias, nucleus and rule, in half as many kinds."""


def canvas(kind: str, rng: random.Random, vocab: int, prompt: int, length: int):
    """A canvas of a kind with a chance prompt, temperature, k and blocks."""
    chosen = {"steps": 12, "temperature": rng.choice([0.5, 0.8, 1.3]), "seed": rng.randrange(999)}
    own = KINDS[kind]
    name = own["sampler"]
    if name in READERS["mixing_ratio"]:
        chosen["mixing_ratio"] = rng.choice([0.1, 0.3, 0.5])
    if name in READERS["block_length"]:
        chosen["block_length"] = rng.choice([8, 16])
    if name == "gidd":
        chosen["p_uniform"] = rng.choice([0.1, 0.3])
    if name == "topk":
        chosen["refine_scope"] = rng.choice(["block", "generated"])
    params = make_params(**(chosen | own))
    tokens = [rng.randrange(vocab - 1) for _ in range(prompt)] + [0] * length
    return tokens, [False] * prompt + [True] * length, params
