"""Sections 4 to 8: whole decoding runs of each variant against the published loops."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial

import torch
from torch import Tensor

from benchmarks.caches import PlainForward
from benchmarks.device.measures import matrix_rate, peak_mib
from benchmarks.device.networks import Bench
from benchmarks.device.report import OUT_OF_TIME
from benchmarks.device.variants import VARIANTS, Canvases, copy_of, graphs_of
from benchmarks.isolated import cached, logits_of
from benchmarks.reference import explicit_posterior_loop, fast_dllm_loop, llada_loop
from fusion.choice import operations_of_pytorch
from models.base import DenoiserModule
from models.families.llada import LLaDA
from sampler import SAMPLERS, make_params
from sampler.batch import CanvasBatch
from sampler.interface import Sampler
from sampler.step import take_steps

K = 0.1
PROMPT, GENERATED = 128, 256
Side = tuple[str, Callable[[], object], int]
"""Variant, work of one run, number of runs."""


def in_turn(bench: Bench, case: str, sides: list[Side], note: Callable[[float], str]) -> None:
    """Run the sides A B A B ... after a round that does not count; one record for each side."""
    found: dict[str, list[float]] = {variant: [] for variant, _, _ in sides}
    peaks: dict[str, float | None] = {}
    for _, work, _ in sides:
        work()
    for i in range(max((runs for _, _, runs in sides), default=0)):
        for variant, work, runs in sides:
            if i < runs and (bench.report.has_time or not found[variant]):
                taken, peaks[variant] = peak_mib(work, bench.device)
                found[variant].append(taken)
    reference = found.get("reference")
    for variant, taken in found.items():
        said = note(statistics.median(taken)) if variant != "reference" else ""
        if reference and variant != "reference":
            ratio = statistics.median(reference) / statistics.median(taken)
            said = f"{ratio:.2f}x of the reference; {said}".removesuffix("; ")
        bench.report.add(case, variant, seconds=taken, peak_mib=peaks[variant], note=said)


def llada_case(
    bench: Bench,
    model: LLaDA,
    batch: int,
    steps: int,
    temperature: float,
    runs: tuple[int, int],
) -> None:
    """The hybrid sampler against LLaDA's loop; ``runs``: of the reference, and of each variant."""
    shape = bench.llada_shape
    vocab, mask = shape["vocab_size"], shape["mask_token_id"]
    prompt_length, length = (16, 32) if bench.small else (PROMPT, GENERATED)
    steps = min(steps, 4) if bench.small else steps
    case = f"{bench.llada_name} {batch} x {steps} steps T={temperature:g}"
    if not bench.report.has_time:
        bench.report.skip(case, why=OUT_OF_TIME)
        return
    g = torch.Generator().manual_seed(0)
    prompt = torch.randint(3, min(1000, mask), (batch, prompt_length), generator=g)
    params = make_params(steps=steps, sampler="topk", mixing_ratio=K, temperature=temperature)
    editable = [False] * prompt_length + [True] * length
    canvases: Canvases = [(p + [0] * length, editable, params) for p in prompt.tolist()]
    sampler = SAMPLERS["topk"].make(vocab, mask, ())
    decoders = VARIANTS
    rows = 0
    for variant, decode in decoders.items():  # verified before it is timed
        decode(model, sampler, canvases, bench.device)  # in the next, sizes are recorded
        found, rows = decode(model, sampler, canvases, bench.device)
        found = found.view(batch, -1)
        whole = bool((found[:, :prompt_length].cpu() == prompt).all())
        whole &= bool((found != mask).all() and (found >= 0).all() and (found < vocab).all())
        again, _ = decode(model, sampler, canvases, bench.device)
        whole &= bool((again.view(batch, -1) == found).all())
        said = "prompt kept, no mask left, the same twice" if whole else "wrong tokens"
        bench.report.verify(case, variant, whole, said)
    reference = partial(
        llada_loop,
        logits_of(model),
        batch=batch,
        length=length,
        block=length,
        steps=steps,
        mask_id=mask,
        mixing_ratio=K,
        temperature=temperature,
        seed=0,
        prompt=prompt.to(bench.device),
        device=bench.device,
    )
    sides: list[Side] = [("reference", reference, bench.runs(runs[0]))]
    for variant, decode in decoders.items():
        work = partial(decode, model, sampler, canvases, bench.device)
        sides.append((variant, work, bench.runs(runs[1])))
    head = shape["d_model"] * vocab
    weights = sum(p.numel() for n, p in model.named_parameters() if "wte" not in n)
    flops = 2 * (weights - head) * batch * (prompt_length + length) * steps + 2 * head * rows
    if bench.matrix_rate is None:
        bench.matrix_rate = matrix_rate(bench.device, 256 if bench.small else 8192)
    rate = bench.matrix_rate

    def note(seconds: float) -> str:
        tokens = f"{batch * length / seconds:.0f} tokens/s"
        return f"{tokens}, {100 * flops / seconds / rate:.0f} % of the matrix rate"

    in_turn(bench, case, sides, note)


def one_canvas(bench: Bench) -> None:
    """Section 4: one canvas, 32 steps, at temperatures 0 and 1."""
    model = bench.llada()
    for temperature in (0.0, 1.0):
        llada_case(bench, model, 1, 32, temperature, (5, 7))


def eight_canvases(bench: Bench) -> None:
    """Section 5: eight canvases, 32 steps."""
    llada_case(bench, bench.llada(), 8, 32, 0.0, (3, 3))


def many_canvases(bench: Bench) -> None:
    """Section 6: 32 canvases, 8 steps."""
    llada_case(bench, bench.llada(), 32, 8, 0.0, (2, 2))


def caches(bench: Bench) -> None:
    """Section 7: Fast-dLLM's caches against its own loop, which takes one canvas at a time."""
    model, shape = bench.llada(), bench.llada_shape
    mask = shape["mask_token_id"]
    prompt, length, block, steps = (16, 16, 8, 4) if bench.small else (PROMPT, GENERATED, 32, 64)
    sampler = SAMPLERS["topk"].make(shape["vocab_size"], mask, ())
    g = torch.Generator().manual_seed(0)
    given = torch.randint(3, min(1000, mask), (16, prompt), generator=g)
    networks = {"eager": model, "graph": model, "fused": copy_of(model, "joined")}
    # once for all cases: a recorded step stays with the memory that it was recorded for
    for network in (model, networks["fused"]):
        network.reserve(16 * (prompt + length))
    for mode in ("dual", "prefix"):
        for count in (1, 16):
            case = f"{bench.llada_name} {count} x {steps} steps {mode}"
            if not bench.report.has_time:
                bench.report.skip(case)
                continue
            params = make_params(
                sampler="topk",
                steps=steps,
                mixing_ratio=0.0,
                temperature=0.0,
                block_length=block,
                cache=mode,
            )
            editable = [False] * prompt + [True] * length
            canvases: Canvases = [
                ([*ids, *[0] * length], editable, params) for ids in given[:count].tolist()
            ]
            reference = partial(
                fast_dllm_loop,
                PlainForward(model),
                prompt=given[:1].to(bench.device),
                length=length,
                block=block,
                steps=steps,
                mask_id=mask,
                mode=mode,
            )
            sides: list[Side] = [("reference", reference, bench.runs(2))]
            for variant, network in networks.items():
                work = partial(_cached_run, variant, network, sampler, canvases, mode, bench.device)
                tokens = work()
                whole = bool((tokens != mask).all())
                bench.report.verify(case, variant, whole, "no mask left" if whole else "masks left")
                sides.append((variant, work, bench.runs(3)))
            said = "" if count == 1 else f"; the reference is of one canvas, {count} take as often"
            in_turn(bench, case, sides, lambda s, n=count, t=said: f"{n * length / s:.0f} tok/s{t}")


def _cached_run(
    variant: str,
    network: DenoiserModule,
    sampler: Sampler,
    canvases: Canvases,
    mode: str,
    device: str,
) -> Tensor:
    """All steps of some canvases whose keys and values are kept; their tokens."""
    take = take_steps if variant == "eager" else graphs_of(network, device).take_steps
    with nullcontext() if variant == "fused" else operations_of_pytorch():
        batch = cached(network, sampler.begin(CanvasBatch.of(canvases, device)), mode)
        for _ in range(canvases[0][2].calls):
            batch = take(network, [(sampler, batch)])[0].batch
    return batch.tokens


def posterior(bench: Bench) -> None:
    """Section 8: branch first against the explicit posterior (paper, App. K), with uniform noise
    (XDLM) and without (MDLM).
    """
    model = bench.dit()
    vocab = bench.dit_shape["vocab_size"]
    batch, length, steps = (2, 16, 2) if bench.small else (32, 1024, 32)
    sampler = SAMPLERS["ancestral"].make(vocab, vocab - 1, ())
    for name, mixing in (("dit", K), ("dit mdlm", 0.0)):
        case = f"{name} {batch} x {steps} steps"
        if not bench.report.has_time:
            bench.report.skip(case)
            continue
        canvases: Canvases = [
            ([0] * length, [True] * length, make_params(steps=steps, mixing_ratio=mixing, seed=i))
            for i in range(batch)
        ]
        decoders = VARIANTS
        for variant, decode in decoders.items():
            found: Tensor = decode(model, sampler, canvases, bench.device)[0]
            whole = bool(
                (found != vocab - 1).all() and (found >= 0).all() and (found < vocab).all()
            )
            bench.report.verify(case, variant, whole, "no mask left" if whole else "wrong tokens")
        reference = partial(
            explicit_posterior_loop,
            logits_of(model),
            batch=batch,
            length=length,
            steps=steps,
            vocab_size=vocab,
            mask_id=vocab - 1,
            mixing_ratio=mixing,
            seed=0,
            device=bench.device,
        )
        sides: list[Side] = [("reference", reference, bench.runs(3))]
        for variant, decode in decoders.items():
            work = partial(decode, model, sampler, canvases, bench.device)
            sides.append((variant, work, bench.runs(5)))
        in_turn(bench, case, sides, lambda s: f"{batch * length / s:.0f} tokens/s")
        bench.free()
