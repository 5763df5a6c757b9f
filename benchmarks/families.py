"""Networks that generate in blocks, and mixtures of experts, with random weights of real shapes.

    python -m benchmarks.families --sdar           # beside a loop over transformers' Qwen3
    python -m benchmarks.families --experts        # milliseconds a step by number of requests

SDAR has the layout of Qwen3. The loop restates the model's own: each block of 4 is run against the
kept keys and values until it is full, one token a step, and once more to keep it. Time depends on
shapes alone, so each side has random weights of its own.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from typing import Any

import torch

from benchmarks.isolated import Record, cached, compare, measure_here, save
from models.base import DenoiserModule
from models.checkpoints.devices import arithmetic
from models.int8 import quantise_layer
from models.packed import pack
from models.registry import FAMILIES, build
from models.widening import compute_wide
from sampler import make_params
from sampler.batch import CanvasBatch
from sampler.samplers.threshold import Threshold
from sampler.step import take_step

PROMPT, LENGTH = 64, 32
SHAPE = "sdar-1.7b"
CPU = torch.device("cpu")
THREADS = 2


def config_of(family: str, fields: dict[str, Any]) -> dict[str, Any]:
    """Fields of a ``config.json``."""
    spec = FAMILIES[family]
    return {"model_type": spec.published_type, **spec.random_config, **fields}


def random_network(config: dict[str, Any], dtype: torch.dtype) -> DenoiserModule:
    """A network whose weights are uniform in +-0.03."""
    torch.manual_seed(0)
    stored = torch.bfloat16 if dtype == torch.int8 else dtype
    network = build(config, None).network.to(stored).to_empty(device="cpu").requires_grad_(False)
    with torch.no_grad():
        for tensor in network.stored().values():
            tensor.uniform_(-0.03, 0.03)
    network.ready(CPU)
    if dtype == torch.int8:
        for name in [name for name, _ in network.named_modules()]:
            quantise_layer(network, name)
    if arithmetic(dtype, CPU) != dtype:
        compute_wide(network)
    else:
        pack(network)
    return network.eval()


def prompts(count: int, vocab: int) -> list[list[int]]:
    """Random prompts."""
    g = torch.Generator().manual_seed(1)
    return torch.randint(vocab, (count, PROMPT), generator=g).tolist()


def canvases_of(
    network: DenoiserModule, vocab: int, mask_id: int, count: int, length: int
) -> tuple[Threshold, CanvasBatch]:
    """The sampler and canvases that fill one token a step, each with an extent of slots."""
    block = network.block_length or 0
    params = make_params(
        "threshold",
        remasking_strategy="low_confidence_static",
        steps=length,
        temperature=0.0,
        block_length=block or None,
        block_aligned=block > 0,
    )
    sampler = Threshold(vocab, mask_id)
    canvases = [
        ([*ids, *[0] * length], [False] * PROMPT + [True] * length, params)
        for ids in prompts(count, min(vocab, mask_id))
    ]
    batch = sampler.begin(CanvasBatch.of(canvases))
    return sampler, cached(network, batch, "none") if block else batch


def ours(count: int, dtype: torch.dtype) -> Record:
    """Seconds of all steps of some canvases together, after one block to warm up."""
    config = config_of("sdar", dict(FAMILIES["sdar"].shapes[SHAPE]))
    network = random_network(config, dtype)
    vocab, mask_id = config["vocab_size"], config["mask_token_id"]
    decode(network, *canvases_of(network, vocab, mask_id, count, config["block_size"]))
    began = time.perf_counter()
    passes = decode(network, *canvases_of(network, vocab, mask_id, count, LENGTH))
    seconds = time.perf_counter() - began
    told = {"passes": passes, "tokens": count * LENGTH}
    return {"seconds": seconds, "tokens_s": count * LENGTH / seconds, **told}


def decode(network: DenoiserModule, sampler: Threshold, batch: CanvasBatch) -> int:
    """Take all steps; how many there were."""
    passes = 0
    while not bool(batch.finished.all()):
        batch, passes = take_step(sampler, network, batch).batch, passes + 1
    return passes


def transformers_loop(count: int, dtype: torch.dtype) -> Record:
    """Seconds of SDAR's loop over Qwen3, one request after the other."""
    from transformers import DynamicCache, Qwen3Config, Qwen3ForCausalLM

    raw = config_of("sdar", dict(FAMILIES["sdar"].shapes[SHAPE]))
    names = set(Qwen3Config().to_dict())
    torch.manual_seed(0)
    torch.set_default_dtype(dtype)
    model = Qwen3ForCausalLM(Qwen3Config(**{n: v for n, v in raw.items() if n in names})).eval()
    torch.set_default_dtype(torch.float32)
    mask, block = raw["mask_token_id"], raw["block_size"]

    @torch.inference_mode()
    def answer(ids: list[int], length: int) -> int:
        x = torch.tensor([[*ids, *[mask] * length]])
        cache, passes = DynamicCache(), 0

        def run(start: int, end: int, keep: bool) -> torch.Tensor:
            nonlocal passes
            passes += 1
            blocks = torch.arange(end) // block
            seen = blocks[start:end, None] >= blocks[None, :]
            logits = model(
                x[:, start:end],
                attention_mask=seen[None, None],
                past_key_values=cache,
                position_ids=torch.arange(start, end)[None],
                use_cache=True,
            ).logits
            if not keep:
                cache.crop(start - end)
            return logits[0].float()

        run(0, len(ids), keep=True)
        for start in range(len(ids), len(ids) + length, block):
            here = slice(start, start + block)
            while bool((x[0, here] == mask).any()):
                logits = run(start, start + block, keep=False)
                logits[:, mask] = -torch.inf
                confidence, token = logits.softmax(-1).max(-1)
                confidence[x[0, here] != mask] = -1.0
                best = int(confidence.argmax())
                x[0, start + best] = token[best]
            run(start, start + block, keep=True)
        return passes

    answer(prompts(1, mask)[0], block)
    began = time.perf_counter()
    passes = sum(answer(ids, LENGTH) for ids in prompts(count, mask))
    seconds = time.perf_counter() - began
    told = {"passes": passes, "tokens": count * LENGTH}
    return {"seconds": seconds, "tokens_s": count * LENGTH / seconds, **told}


EXPERTS = {
    "hidden_size": 512,
    "num_hidden_layers": 4,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "vocab_size": 8192,
    "mask_token_id": 8191,
    "eos_token_id": 1,
    "max_position_embeddings": 512,
    "head_dim": 64,
    "block_size": 32,
}
MIXTURE = {
    "num_experts": 64,
    "num_experts_per_tok": 8,
    "moe_intermediate_size": 192,
    "norm_topk_prob": True,
    "intermediate_size": 1536,
}
"""64 experts of 192, 8 of them a token: 1,536, the width of the dense layers beside them."""


def step_of(family: str, requests: int) -> float:
    """Median milliseconds of a step in which each request runs one block."""
    more = MIXTURE if family == "sdar_moe" else {"intermediate_size": 1536}
    config = config_of(family, {**EXPERTS, **more})
    network = random_network(config, torch.float32)
    sampler, batch = canvases_of(network, 8192, 8191, requests, 32)
    spent = []
    for _ in range(12):
        began = time.perf_counter()
        batch = take_step(sampler, network, batch).batch
        spent.append(time.perf_counter() - began)
    return 1e3 * statistics.median(spent[2:])


def main() -> None:
    """Compare, or be one of the sides."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--one", nargs=2, metavar=("SIDE", "TYPE-REQUESTS"))
    parser.add_argument("--sdar", action="store_true", help="beside a loop over transformers")
    parser.add_argument("--experts", action="store_true", help="steps of mixtures of experts")
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--save", help="name of a file in benchmarks/results")
    args = parser.parse_args()
    if args.one:
        side, setting = args.one
        dtype, requests = setting.split("-")
        work = ours if side == "ours" else transformers_loop
        kind = getattr(torch, dtype)
        measure_here(side, setting, lambda: work(int(requests), kind), threads=THREADS)
        return
    records: list[Record] = []
    if args.sdar:
        for dtype in ("bfloat16", "float32"):
            one, four = [f"{dtype}-1"], [f"{dtype}-4"]
            records += compare("benchmarks.families", one, args.repeats, "seconds")
            # the loop takes requests one after the other: four take four times as long
            records += compare("benchmarks.families", four, args.repeats, "seconds", ("ours",))
        for setting in ("int8-1", "int8-4"):
            records += compare("benchmarks.families", [setting], args.repeats, "seconds", ("ours",))
    if args.experts:
        torch.set_num_threads(1)
        for requests in (1, 8, 64):
            found = {
                "requests": requests,
                "dense_ms": round(step_of("sdar", requests), 2),
                "experts_ms": round(step_of("sdar_moe", requests), 2),
            }
            records.append(found)
            print(json.dumps(found), flush=True)
    if args.save:
        save(args.save, records)


if __name__ == "__main__":
    main()
