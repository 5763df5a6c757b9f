"""The same code on a GPU: official vectors, the CPU's own tokens, and memory that runs out."""

from __future__ import annotations

import asyncio
import copy
import json
import urllib.request

import pytest
import torch

from fusion import choice
from fusion.choice import Draw
from models.attention import PackedAttention, attention_over
from models.checkpoints.load import find_checkpoint, load_checkpoint
from models.float8 import Float8Linear
from models.joined import Joined
from sampler import SAMPLERS, make_params
from sampler.batch import CanvasBatch
from sampler.graphs import CudaRecorder, StepGraphs
from sampler.likelihood.monte_carlo import ScoreParams
from sampler.step import take_step, take_steps
from server.config import Settings
from server.engine.events import Done, Failed, GenerationRequest
from server.engine.score_request import ScoreRequest
from tests.models.families import test_dit, test_dit_image
from tests.models.families.test_llada import official as official_llada  # noqa: F401
from tests.models.families.test_unet import official as official_unet  # noqa: F401
from tests.models.images import test_vq_decoder as test_vq
from tests.sampler.kernels import cases
from tests.support import kernels
from tests.support.engine import request, result
from tests.support.serving import make_engine, run_server, settings_of, write_tiny

pytestmark = pytest.mark.gpu

CUDA = torch.device("cuda")


@pytest.fixture(autouse=True)
def full_precision() -> None:
    """As ``checkpoint.load`` has it: convolutions are not rounded to TF32."""
    torch.backends.cudnn.allow_tf32 = False


def logits(model, x, labels=None):
    """[B, L] on the CPU -> [B, L, V] on the CPU, by a copy of the model on the GPU."""
    there = copy.deepcopy(model).to(CUDA)
    offsets = torch.arange(len(x) + 1, device=CUDA) * x.shape[1]
    labels = None if labels is None else labels.to(CUDA)
    hidden = there.trunk(x.flatten().to(CUDA), offsets, None, labels)
    return there.head(hidden).unflatten(0, x.shape).cpu()


def test_official_logits(golden, official_llada, official_unet):  # noqa: F811
    """fp32, at the tolerances that the CPU holds."""
    model, t = official_llada
    torch.testing.assert_close(logits(model, t["input_ids"]), t["logits"], rtol=0, atol=5e-5)
    text = golden("dit_text_tiny")
    model = test_dit.official(text)
    model.fold()
    theirs = text.tensors["logits.sigma0"]
    torch.testing.assert_close(logits(model, text.tensors["x"]), theirs, rtol=0, atol=5e-5)
    image = golden("dit_image_tiny")
    model = test_dit_image.official(image, 40)
    model.fold()
    for kind in ("cond", "null"):
        ours = logits(model, image.tensors["x"], image.tensors[f"cond.{kind}"])
        theirs = image.tensors[f"logits.sigma0.{kind}"]
        torch.testing.assert_close(ours, theirs, rtol=0, atol=5e-5)
    t = golden("unet_tiny").tensors
    ours = logits(official_unet, t["x"], t["cond.cond"])
    theirs = t["logits.t0.cond"]
    torch.testing.assert_close(ours.softmax(-1), theirs.softmax(-1), rtol=0, atol=2e-5)


def test_official_pictures(golden):
    file = golden("vq_decoder_tiny")
    decoder = test_vq.official(file, True).to(CUDA)
    decoder.ready(CUDA)
    ids = file.tensors["codes"].view(2, 4, 4).to(CUDA)
    theirs = file.tensors["img_rawcodebook"]
    torch.testing.assert_close(decoder.image(ids).cpu(), theirs, rtol=0, atol=1e-4)


def test_bfloat16_stays_close(official_llada):  # noqa: F811
    """By FlashAttention, where the heads' width fits the kernel."""
    model, t = official_llada
    half = copy.deepcopy(model).bfloat16()
    error = (logits(half, t["input_ids"]).float() - t["logits"]).norm() / t["logits"].norm()
    assert error < 2e-2


KINDS = [
    {"sampler": "ancestral", "top_p": 0.9},
    {"sampler": "ancestral", "noise_removal": "greedy", "guidance_scale": 1.5},
    {"sampler": "topk", "block_length": 16, "refine_scope": "block"},
    {"sampler": "topk", "temperature": 0.0, "logits_eos_inf": True},
    {"sampler": "threshold", "block_length": 16, "confidence_threshold": 0.7},
    {"sampler": "gidd", "p_uniform": 0.2},
    {"sampler": "remdm", "remdm_schedule": "loop"},
]


@pytest.fixture(scope="module")
def stories():
    path = find_checkpoint("stories")
    return load_checkpoint(path, "cpu", "float32"), load_checkpoint(path, "cuda", "float32")


@pytest.mark.parametrize("chosen", KINDS, ids=lambda c: c["sampler"])
def test_samplers_give_the_tokens_of_a_cpu(stories, chosen):
    """The random numbers are the same bits on both; in fp32 the logits differ in the last ones,
    which may tip a draw now and then, and what follows from it.
    """
    runs = []
    for loaded in stories:
        sampler = SAMPLERS[chosen["sampler"]].make(
            loaded.info.vocab_size, loaded.info.mask_id, loaded.ends
        )
        canvases = [
            (
                [0, 300 + i] + [0] * 48,
                [False] * 2 + [True] * 48,
                make_params(**({"steps": 8, "seed": i, "mixing_ratio": 0.0} | chosen)),
            )
            for i in range(32)
        ]
        batch = sampler.begin(CanvasBatch.of(canvases, loaded.device))
        for _ in range(canvases[0][2].calls):
            batch = take_step(sampler, loaded.model, batch).batch
        assert batch.tokens.device.type == loaded.device.type
        runs.append(batch.tokens.cpu())
    assert (runs[0] == runs[1]).double().mean() > 0.98


@pytest.mark.parametrize("chosen", KINDS, ids=lambda c: c["sampler"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_recorded_steps_are_those_taken_eagerly(chosen, dtype):
    """Twice, so that all sizes are recorded. In bfloat16 products of other sizes round otherwise,
    which changes a text from its first other token on: there the recordings prove themselves.
    """
    loaded = load_checkpoint(find_checkpoint("stories"), "cuda", dtype)
    sampler = SAMPLERS[chosen["sampler"]].make(
        loaded.info.vocab_size, loaded.info.mask_id, loaded.ends
    )
    settings = {"steps": 8, "mixing_ratio": 0.0} | chosen
    canvases = [
        (
            [0, 300 + i] + [0] * 48,
            [False] * 2 + [True] * 48,
            make_params(**settings, seed=i),
        )
        for i in range(32)
    ]
    graphs = StepGraphs(loaded.model, CUDA, CudaRecorder(CUDA))
    runs = []
    for take in (take_steps, graphs.take_steps, graphs.take_steps, graphs.take_steps):
        batch = sampler.begin(CanvasBatch.of(canvases, CUDA))
        for _ in range(canvases[0][2].calls):
            batch = take(loaded.model, [(sampler, batch)])[0].batch
        runs.append(batch.tokens.cpu())
    assert graphs.replayed > graphs.recorded > 0 and graphs.refused == 0
    assert torch.equal(runs[-1], runs[-2])
    if dtype == "float32":
        assert (runs[-1] == runs[0]).double().mean() > 0.98


def tokens_of(outcome: Done | Failed) -> tuple[int, ...]:
    assert isinstance(outcome, Done)
    return outcome.tokens


async def test_the_engine_takes_a_mixture(stories):
    engine = make_engine(stories[1])
    engine.start()
    try:
        requests = [
            request(i, 20 + 5 * i, wants_steps=True, steps=16, **KINDS[i % 7]) for i in range(21)
        ]
        outcomes = await asyncio.gather(*(result(engine.submit(r)) for r in requests))
        assert all(isinstance(o, Done) for o in outcomes)
        again = [tokens_of(await result(engine.submit(requests[3]))) for _ in range(2)]
        assert again[0] == again[1]
        scored = ScoreRequest([0, *range(300, 340)], list(range(1, 41)), ScoreParams(samples=8))
        nats = await engine.score(scored)
        assert 0 < sum(nats.nats) < 1000
    finally:
        engine.stop()


async def test_memory_that_runs_out_hurts_the_largest_alone(tmp_path):
    """The process may have little of the GPU; one request needs more, and its neighbours do not."""
    folder = write_tiny(tmp_path / "m")
    config = json.loads((folder / "config.json").read_text())
    config["max_sequence_length"] = 65536
    (folder / "config.json").write_text(json.dumps(config))
    loaded = load_checkpoint(folder, "cuda", "float32")
    engine = make_engine(loaded, max_positions=2**20, max_steps=64)
    engine.start()
    small = [request(i, 30, steps=40) for i in range(6)]
    large = GenerationRequest.continuing([0, 305], 60000, make_params(steps=4))
    total = torch.cuda.get_device_properties(0).total_memory
    try:
        alone = [await result(engine.submit(r)) for r in small]
        torch.cuda.empty_cache()
        allowed = torch.cuda.memory_reserved() + 2**26
        torch.cuda.set_per_process_memory_fraction(allowed / total)
        together = [engine.submit(r) for r in (*small, large)]
        *beside, failed = await asyncio.gather(*(result(s) for s in together))
        assert isinstance(failed, Failed) and failed.code == "out_of_memory"
        assert [tokens_of(o) for o in beside] == [tokens_of(o) for o in alone]
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
        engine.stop()


def post(url: str, body: dict) -> dict:
    data = json.dumps(body).encode()
    asked = urllib.request.Request(url, data, {"content-type": "application/json"})
    with urllib.request.urlopen(asked, timeout=60) as answer:
        return json.loads(answer.read())


def test_a_server_in_bfloat16():
    loaded = [load_checkpoint(find_checkpoint(n), "cuda") for n in ("stories", "digits")]
    assert {x.info.dtype for x in loaded} == {"bfloat16"}
    assert isinstance(
        attention_over(torch.tensor([0, 9], device=CUDA), 9, torch.bfloat16, 48), PackedAttention
    )
    settings = settings_of(checkpoints=["stories", "digits"])
    assert isinstance(settings, Settings)
    engines = [make_engine(x) for x in loaded]
    running = run_server(engines[0], settings, engines[1])
    served = next(running)
    try:
        body = {"model": "stories", "prompt": "Once upon a time", "max_tokens": 100, "seed": 1}
        text = post(f"{served.url}/v1/completions", body)["choices"][0]["text"]
        assert len(text.split()) > 20
        again = post(f"{served.url}/v1/completions", body)["choices"][0]["text"]
        assert again == text
        asked = {"model": "digits", "prompt": "7", "n": 2}
        pictures = post(f"{served.url}/v1/images/generations", asked)["data"]
        assert len(pictures) == 2 and all(p["b64_json"].startswith("iVBOR") for p in pictures)
    finally:
        next(running, None)


def test_classes_and_guidance():
    path = find_checkpoint("digits")
    runs = []
    for device in ("cpu", "cuda"):
        loaded = load_checkpoint(path, device, "float32")
        sampler = SAMPLERS["ancestral"].make(loaded.info.vocab_size, loaded.info.mask_id, ())
        params = make_params(steps=8, mixing_ratio=0.1, guidance_scale=2.0)
        canvases = [
            ([0] * 144, [True] * 144, params.changed(class_label=i, seed=i)) for i in range(10)
        ]
        batch = sampler.begin(CanvasBatch.of(canvases, loaded.device))
        for _ in range(params.calls):
            batch = take_step(sampler, loaded.model, batch).batch
        runs.append(batch.tokens.cpu())
    assert (runs[0] == runs[1]).double().mean() > 0.98


@pytest.mark.parametrize("packed", [True, False])
def test_a_layout_from_the_host_is_that_from_the_device_and_waits_for_nothing(packed):
    dtype = torch.bfloat16 if packed else torch.float32
    offsets = torch.tensor([0, 5, 69, 134])
    there = attention_over(offsets.to(CUDA), 150, dtype, 8)
    torch.cuda.set_sync_debug_mode("error")
    try:
        here = attention_over(offsets, 150, dtype, 8, device=CUDA)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert isinstance(here, PackedAttention) == packed
    q, k, v = (torch.randn(150, h, 8, device=CUDA, dtype=dtype) for h in (4, 2, 2))
    assert torch.equal(here(q, k, v)[:134], there(q, k, v)[:134])


def test_products_in_float8_are_those_of_a_cpu():
    layer = torch.nn.Linear(512, 256, dtype=torch.bfloat16).requires_grad_(False)
    narrow, x = Float8Linear(layer), torch.randn(40, 512).bfloat16()
    expected, found = narrow(x), narrow.to(CUDA)(x.to(CUDA)).cpu()
    torch.testing.assert_close(found, expected, rtol=2e-2, atol=2e-2)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_kernels_agree_with_torch(dtype):
    """At sizes of published networks; the residual in bfloat16 too is the same bits."""
    cases = kernels.norms() | kernels.ropes() | kernels.gates() | kernels.modulations(dtype)
    with torch.inference_mode():
        for name, compare in cases.items():
            pairs = list(compare(Draw(CUDA, dtype)))
            assert all(choice._excess(*pair) <= 1 for pair in pairs), name
            assert not name.startswith("norm") or torch.equal(*pairs[0]), name


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_rows_read_by_the_kernel_are_those_by_torch(dtype):
    """Every question of a sampler, at vocabularies of published networks and at small ones."""
    reads = cases.reads((*cases.PUBLISHED, *cases.VOCABULARIES))
    with torch.inference_mode():
        for name, compare in reads.items():
            pairs = list(compare(Draw(CUDA, dtype)))
            assert all(choice._excess(*pair) <= 1 for pair in pairs), name


def test_kernels_over_positions_are_exact():
    with torch.inference_mode():
        for name, (compare, dtype) in cases.others().items():
            assert all(torch.equal(*pair) for pair in compare(Draw(CUDA, dtype))), name


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float8"])
def test_loaded_network_is_joined_and_runs_by_kernels(monkeypatch, dtype):
    monkeypatch.setattr(choice, "_agree", {})
    network = load_checkpoint(find_checkpoint("stories"), "cuda", dtype).model
    assert isinstance(network, torch.nn.Module)
    assert sum(isinstance(part, Joined) for part in network.modules()) == 12
    tokens, offsets = torch.arange(300, 364, device=CUDA), torch.tensor([0, 24, 64])
    with torch.inference_mode():
        found = network.trunk(tokens, offsets)
        assert len(choice._agree) == 4 and all(choice._agree.values())
        monkeypatch.setattr(choice, "DEVICES", frozenset())
        expected = network.trunk(tokens, offsets)
    error = (found.float() - expected.float()).norm() / expected.float().norm()
    assert error < {"float32": 1e-5, "bfloat16": 2e-2, "float8": 5e-2}[dtype]
