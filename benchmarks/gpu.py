"""Speed of the samplers on a GPU against the published loops, and where their time goes.

Random weights of published shapes in bf16, seeded; static schedules, so the work is fixed and
counted. Both sides of a comparison run in turn on the same weights, with a warm-up round and
timers that wait for the GPU.

    python -m benchmarks.gpu posterior --save gpu-posterior.jsonl  # DiT 12 x 768, 50 258 ids
    python -m benchmarks.gpu llada --save gpu-llada.jsonl          # the shape of LLaDA-8B
    python -m benchmarks.gpu profile --save gpu-profile.jsonl      # kernels and waits of a step
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Iterable, Iterator

import torch
from torch._C._autograd import DeviceType

from benchmarks.device.measures import matrix_rate, seconds
from benchmarks.device.networks import random_dit, random_llada
from benchmarks.isolated import Record, logits_of, save, steps_of
from benchmarks.reference import explicit_posterior_loop, llada_loop
from models.families.dit import DiT
from models.families.dit_config import DIT_SHAPES
from models.families.llada import LLaDA
from models.families.llada_config import SHAPES
from sampler import SAMPLERS, make_params
from sampler.batch import CanvasBatch
from sampler.step import take_step

DEVICE = "cuda"
K = 0.1
PROMPT, GENERATED = 128, 256


def in_turn(
    sides: dict[str, Callable[[], object]], repeats: int, warm: int, **setting: object
) -> Iterator[Record]:
    """Run the sides A B A B ...; one record each, after ``warm`` rounds that do not count."""
    for i in range(warm + repeats):
        for side, work in sides.items():
            torch.cuda.reset_peak_memory_stats()
            taken = seconds(work, DEVICE)
            if i >= warm:
                peak = torch.cuda.max_memory_allocated() / 2**20
                yield {"side": side, **setting, "seconds": taken, "peak_mib": round(peak)}


def print_comparison(records: list[Record], tokens: int) -> None:
    """Print medians, quartiles and the ratio of two sides."""
    by_side: dict[str, list[float]] = {}
    for r in records:
        by_side.setdefault(r["side"], []).append(r["seconds"])
    for side, found in by_side.items():
        low, middle, high = statistics.quantiles(found, n=4) if len(found) > 1 else 3 * found
        peak = max(r["peak_mib"] for r in records if r["side"] == side)
        rate = f"{tokens / middle:.0f} tokens/s"
        print(f"  {side}: {middle:.3f} s ({low:.3f} to {high:.3f}), {rate}, {peak} MiB")
    if len(by_side) == 2:
        reference, ours = (statistics.median(found) for found in by_side.values())
        print(f"  {reference / ours:.2f}x", flush=True)


# Speed --------------------------------------------------------------------------------------------


def _dit() -> DiT:
    return random_dit(DIT_SHAPES["small-owt"], DEVICE, torch.bfloat16)


def _llada() -> LLaDA:
    return random_llada(SHAPES["llada-8b"], DEVICE, torch.bfloat16)


def posterior(repeats: int, batches: Iterable[int], length: int, steps: int) -> Iterator[Record]:
    """Branch first against the explicit posterior: DiT 12 x 768, 50 258 ids (paper, App. K)."""
    model, rate = _dit(), matrix_rate(DEVICE)
    vocab = DIT_SHAPES["small-owt"]["vocab_size"]
    sampler = SAMPLERS["ancestral"].make(vocab, vocab - 1, ())
    yield {"kind": "matmul", "flops": rate}
    for batch in batches:
        canvases = [
            ([0] * length, [True] * length, make_params(steps=steps, mixing_ratio=K, seed=i))
            for i in range(batch)
        ]

        def reference(batch: int = batch) -> object:
            return explicit_posterior_loop(
                logits_of(model),
                batch=batch,
                length=length,
                steps=steps,
                vocab_size=vocab,
                mask_id=vocab - 1,
                mixing_ratio=K,
                seed=0,
                device=DEVICE,
            )

        sides = {
            "reference": reference,
            "ours": lambda c=canvases: steps_of(model, sampler, c, DEVICE),
        }
        setting = {"batch": batch, "length": length, "steps": steps}
        records = list(in_turn(sides, repeats, 1, **setting))
        print(f"DiT, batch {batch}, {length} positions, {steps} steps")
        print_comparison(records, batch * length)
        yield from records


def llada(
    repeats: int, steps: Iterable[int], batches: Iterable[int], temperatures: Iterable[float]
) -> Iterator[Record]:
    """The hybrid sampler against LLaDA's loop in the shape of LLaDA-8B: 256 tokens after 128."""
    model, rate = _llada(), matrix_rate(DEVICE)
    yield {"kind": "matmul", "flops": rate}
    vocab, mask = SHAPES["llada-8b"]["vocab_size"], SHAPES["llada-8b"]["mask_token_id"]
    weights = sum(p.numel() for n, p in model.named_parameters() if "wte" not in n)
    head = SHAPES["llada-8b"]["d_model"] * vocab
    sampler = SAMPLERS["topk"].make(vocab, mask, ())
    g = torch.Generator().manual_seed(0)
    for count, batch, temperature in (
        (s, b, t) for s in steps for b in batches for t in temperatures
    ):
        prompt = torch.randint(3, 1000, (batch, PROMPT), generator=g)
        params = make_params(steps=count, sampler="topk", mixing_ratio=K, temperature=temperature)
        canvases = [
            (p + [0] * GENERATED, [False] * PROMPT + [True] * GENERATED, params)
            for p in prompt.tolist()
        ]
        rows = 0

        def ours(canvases: list = canvases) -> None:
            nonlocal rows
            _, rows = steps_of(model, sampler, canvases, DEVICE)

        def reference(batch: int = batch, count: int = count, t: float = temperature, p=prompt):
            return llada_loop(
                logits_of(model),
                batch=batch,
                length=GENERATED,
                block=GENERATED,
                steps=count,
                mask_id=mask,
                mixing_ratio=K,
                temperature=t,
                seed=0,
                prompt=p.to(DEVICE),
                device=DEVICE,
            )

        setting = {"batch": batch, "steps": count, "temperature": temperature}
        sides = {"reference": reference, "ours": ours}
        records = list(in_turn(sides, repeats, 1, **setting))
        print(f"LLaDA-8B, batch {batch}, {count} steps, temperature {temperature:g}")
        print_comparison(records, batch * GENERATED)
        taken = statistics.median(r["seconds"] for r in records if r["side"] == "ours")
        positions = batch * (PROMPT + GENERATED) * count
        flops = 2 * (weights - head) * positions + 2 * head * rows
        print(f"  {100 * flops / taken / rate:.0f} % of the card's matrix rate, {rows} head rows")
        yield from records
        yield {"kind": "mfu", **setting, "flops": flops, "head_rows": rows, "seconds": taken}


# Where time goes ----------------------------------------------------------------------------------


def profile() -> Iterator[Record]:
    """Kernels, copies to the host and the GPU's busy share of a step, by PyTorch's profiler."""
    dit_vocab = DIT_SHAPES["small-owt"]["vocab_size"]
    cases = {
        "llada-8b topk": (_llada, "topk", SHAPES["llada-8b"], 1, PROMPT + GENERATED),
        "dit ancestral": (_dit, "ancestral", {}, 32, 1024),
    }
    for name, (make, sampler_name, shape, batch_size, length) in cases.items():
        model = make()
        vocab = shape.get("vocab_size", dit_vocab)
        mask = shape.get("mask_token_id", vocab - 1)
        sampler = SAMPLERS[sampler_name].make(vocab, mask, ())
        params = make_params(steps=32, sampler=sampler_name, mixing_ratio=K, temperature=0.0)
        canvases = [([0] * length, [True] * length, params)] * batch_size
        batch = sampler.begin(CanvasBatch.of(canvases, DEVICE))
        for _ in range(8):
            batch = take_step(sampler, model, batch).batch
        torch.cuda.synchronize()
        began = time.perf_counter()
        with torch.profiler.profile() as p:
            for _ in range(4):
                batch = take_step(sampler, model, batch).batch
            torch.cuda.synchronize()
        wall = (time.perf_counter() - began) / 4
        events = p.key_averages()
        on_gpu = [e for e in events if e.device_type == DeviceType.CUDA]
        calls = {e.key: e.count / 4 for e in events if e.key.startswith(("cuda", "cu"))}
        busy = sum(e.self_device_time_total for e in on_gpu) / 4e6
        top = sorted(on_gpu, key=lambda e: -e.self_device_time_total)[:12]
        record = {
            "case": name,
            "kernels": sum(e.count for e in on_gpu) / 4,
            "gpu_ms": 1e3 * busy,
            "profiled_ms": 1e3 * wall,
            "calls": calls,
            "top": {e.key[:80]: round(e.self_device_time_total / 4e3, 3) for e in top},
        }
        print(record, flush=True)
        yield record
        del model


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("part", choices=["posterior", "llada", "profile"])
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--batch", type=int, nargs="+")
    parser.add_argument("--steps", type=int, nargs="+", default=[32, 64, 128, 256])
    parser.add_argument("--temperature", type=float, nargs="+", default=[0.0])
    parser.add_argument("--save", help="name of a file in benchmarks/results")
    args = parser.parse_args()
    with torch.inference_mode():
        if args.part == "posterior":
            records = list(posterior(args.repeats, args.batch or [32], 1024, args.steps[0]))
        elif args.part == "llada":
            records = list(llada(args.repeats, args.steps, args.batch or [1], args.temperature))
        else:
            records = list(profile())
    if args.save:
        save(args.save, records)


if __name__ == "__main__":
    main()
