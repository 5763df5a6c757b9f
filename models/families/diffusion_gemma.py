"""DiffusionGemma's text model, built natively from a checkpoint's ``config.json`` (model_type
``diffusion_gemma``); transformers' own class is the reference of its tests.

One stack of layers has two sides. The encoder reads what is final, causally, and its keys and
values are kept; the decoder reads a canvas of uniform noise or guesses, whose positions see each
other and what was encoded. Both run in one pass: a position is encoded or denoised, by where it
lies. The sides differ in a scalar of each layer, and in what goes in: the decoder adds, through a
network of its own, the mean embedding that the step before expected (self-conditioning).

Five of six layers slide: the encoder sees a window of keys, and the decoder the canvas and the end
of what was encoded. In the others values are the keys before they are normalised, and heads are
wider. A mixture of experts stands beside a dense network in each layer.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.base import MIN_ROWS, DenoiserModule, Piece, pad_rows, rotate
from models.cache import CacheShape, Segments, Sight, Slab, SlabAttention
from models.errors import UnsupportedConfig
from models.families.decoder import MLP
from models.families.diffusion_gemma_config import DiffusionGemmaConfig, LayerKind, read_config
from models.families.experts import Experts, Router, Routing
from models.family import FamilySpec, Fields

FAR = np.iinfo(np.int64).max // 2
ENCODER, DECODER = "model.encoder.", "model.decoder."
"""Prefixes of stored names; tensors of the first, but for a scalar of each layer, are those of the
second once more, or belong to images."""


class Norm(nn.Module):
    """x / rms(x) * weight in fp32, cast back after the weight, if there is one."""

    def __init__(self, size: int, eps: float, weighted: bool = True) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size)) if weighted else None
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """[..., size] -> same."""
        wide = x.float()
        weight = None if self.weight is None else self.weight.float()
        if x.is_cuda:  # the same in one kernel
            return F.rms_norm(wide, x.shape[-1:], weight, self.eps).to(x.dtype)
        wide = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + self.eps)
        return (wide if weight is None else wide * weight).to(x.dtype)


class GeluMLP(MLP):
    """W_down(gelu(W_gate y) * W_up y)."""

    @staticmethod
    def act(x: Tensor) -> Tensor:
        """See ``MLP``: gelu in its tanh form."""
        return F.gelu(x, approximate="tanh")


class GeluExperts(Experts):
    """Such networks stacked; stored as they are, or one by one."""

    def __init__(self, routing: Routing, hidden: int, split: bool) -> None:
        super().__init__(routing.experts, hidden, routing.width)
        self.split = split

    @staticmethod
    def act(x: Tensor) -> Tensor:
        """See ``MLP``: gelu in its tanh form."""
        return F.gelu(x, approximate="tanh")

    def pieces(self, prefix: str) -> dict[str, Piece]:
        """Both stacks under their published names, or what they are made of."""
        if self.split:
            return super().pieces(prefix)
        return {f"{prefix}{n}_proj": Piece(f"{prefix}{n}", ()) for n in ("gate_up", "down")}


class ScaledRouter(nn.Module):
    """Chooses experts by a normalised input, and scales the weight of each."""

    def __init__(self, hidden: int, routing: Routing, eps: float) -> None:
        super().__init__()
        self.routing = routing
        self.norm = Norm(hidden, eps, weighted=False)
        self.scale = nn.Parameter(torch.ones(hidden))
        self.per_expert_scale = nn.Parameter(torch.ones(routing.experts))
        self.proj = Router(hidden, routing.experts)

    def forward(self, h: Tensor) -> tuple[Tensor, Tensor]:
        """[T, D] -> weights [T, k] in fp32 and indices [T, k]."""
        y = self.norm(h) * self.scale * h.shape[-1] ** -0.5
        weights, indices = self.routing.route(self.proj(y), None)
        return weights * self.per_expert_scale.float()[indices], indices


class SelfAttention(nn.Module):
    """Queries, keys and values of one kind of layer, and the way back."""

    def __init__(self, c: DiffusionGemmaConfig, kind: LayerKind) -> None:
        super().__init__()
        self.width = kind.width
        self.q_proj = nn.Linear(c.hidden_size, c.num_attention_heads * kind.width, bias=False)
        self.k_proj = nn.Linear(c.hidden_size, kind.heads * kind.width, bias=False)
        self.v_proj = None
        if kind.window is not None:
            self.v_proj = nn.Linear(c.hidden_size, kind.heads * kind.width, bias=False)
        self.o_proj = nn.Linear(c.num_attention_heads * kind.width, c.hidden_size, bias=False)
        self.q_norm = Norm(kind.width, c.rms_norm_eps)
        self.k_norm = Norm(kind.width, c.rms_norm_eps)
        self.v_norm = Norm(kind.width, c.rms_norm_eps, weighted=False)

    def forward(self, y: Tensor, side: Side) -> Tensor:
        """[T, D] -> [T, H d], the input of ``o_proj``."""
        q, k = (p(y).unflatten(-1, (-1, self.width)) for p in (self.q_proj, self.k_proj))
        v = k if self.v_proj is None else self.v_proj(y).unflatten(-1, (-1, self.width))
        q, k = (rotate(x, side.cos, side.sin) for x in (self.q_norm(q), self.k_norm(k)))
        return side.attention(q, k, self.v_norm(v)).flatten(1)


class Side(NamedTuple):
    """A pass as the layers of one kind see it.

    Attributes:
        attention: the layout.
        cos, sin: of the rotary angles, [T, 1, d / 2].
    """

    attention: SlabAttention
    cos: Tensor
    sin: Tensor


class Layer(nn.Module):
    """Attention, then a dense network and a mixture of experts beside each other."""

    def __init__(self, c: DiffusionGemmaConfig, kind: LayerKind) -> None:
        super().__init__()
        self.self_attn = SelfAttention(c, kind)
        self.mlp = GeluMLP(c.hidden_size, c.intermediate_size)
        self.router = ScaledRouter(c.hidden_size, c.routing, c.rms_norm_eps)
        self.experts = GeluExperts(c.routing, c.hidden_size, c.split_experts)
        self.register_buffer("layer_scalar", torch.ones(1))
        self.input_layernorm = Norm(c.hidden_size, c.rms_norm_eps)
        self.post_attention_layernorm = Norm(c.hidden_size, c.rms_norm_eps)
        self.pre_feedforward_layernorm = Norm(c.hidden_size, c.rms_norm_eps)
        self.pre_feedforward_layernorm_2 = Norm(c.hidden_size, c.rms_norm_eps)
        self.post_feedforward_layernorm = Norm(c.hidden_size, c.rms_norm_eps)
        self.post_feedforward_layernorm_1 = Norm(c.hidden_size, c.rms_norm_eps)
        self.post_feedforward_layernorm_2 = Norm(c.hidden_size, c.rms_norm_eps)

    def forward(self, h: Tensor, side: Side, scalar: Tensor, rows: Tensor | None) -> Tensor:
        """H [T, D] and scalars [T, 1] -> [T, D], or [R, D] if only some rows are asked for."""
        mixed = self.self_attn(self.input_layernorm(h), side)
        if rows is not None:
            h, mixed, scalar = h[rows], mixed[rows], scalar[rows]
        h = h + self.post_attention_layernorm(self.self_attn.o_proj(mixed))
        dense = self.mlp(self.pre_feedforward_layernorm(h))
        sparse = self.experts(self.pre_feedforward_layernorm_2(h), *self.router(h))
        both = self.post_feedforward_layernorm_1(dense) + self.post_feedforward_layernorm_2(sparse)
        return (h + self.post_feedforward_layernorm(both)) * scalar


class EncoderScalar(nn.Module):
    """The one number of a layer that only the encoder has."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("layer_scalar", torch.ones(1))


class SelfConditioning(GeluMLP):
    """The way of a mean embedding into the canvas."""

    def __init__(self, c: DiffusionGemmaConfig) -> None:
        super().__init__(c.hidden_size, c.intermediate_size)
        self.pre_norm = Norm(c.hidden_size, c.rms_norm_eps)

    def forward(self, y: Tensor) -> Tensor:
        """[R, D] -> same; 0 for 0."""
        return super().forward(self.pre_norm(y))


class DiffusionGemma(DenoiserModule):
    """A ``SelfConditioned`` denoiser.

    Without ``segments`` every sequence of a pass is a canvas of its own, without a prompt.

    Attributes:
        config: its sizes and choices.
        slabs: keys and values of sliding layers, and of full ones; None before ``reserve``.
        means: mean embeddings that two phases in turn have left, [2, slots + 1, D]; likewise.
    """

    wide = (".router.",)
    slabs: tuple[Slab, Slab] | None = None
    means: Tensor | None = None

    def __init__(self, config: DiffusionGemmaConfig) -> None:
        super().__init__()
        self.config, self.canvas_length = config, config.canvas_length
        kinds = [config.kinds[full] for full in config.full]
        self.canvas_norm = Norm(config.hidden_size, config.rms_norm_eps, weighted=False)
        decoder = nn.ModuleDict(
            {
                "embed_tokens": nn.Embedding(config.vocab_size, config.hidden_size),
                "layers": nn.ModuleList(Layer(config, kind) for kind in kinds),
                "norm": Norm(config.hidden_size, config.rms_norm_eps),
                "self_conditioning": SelfConditioning(config),
            }
        )
        scalars = nn.ModuleDict({"layers": nn.ModuleList(EncoderScalar() for _ in kinds)})
        encoder = nn.ModuleDict({"language_model": scalars})
        self.model = nn.ModuleDict({"decoder": decoder, "encoder": encoder})
        self.register_module("packed_head", None)

    @property
    def max_length(self) -> int:
        """See ``DenoiserModule``."""
        return self.config.max_position_embeddings

    @property
    def cache_shape(self) -> CacheShape:
        """See ``DenoiserModule``; the mean embeddings are counted too."""
        sliding, full = self.config.kinds
        count = sum(self.config.full)
        more = count * full.position_size + 2 * self.config.hidden_size
        return CacheShape(len(self.config.full) - count, sliding.heads, sliding.width, more)

    def pieces(self) -> dict[str, Piece]:
        """See ``CheckpointModule``: both stacks of each layer's experts."""
        found: dict[str, Piece] = {}
        for name, module in self.named_modules():
            if isinstance(module, GeluExperts):
                found |= module.pieces(f"{name}.")
        return found

    def passed_over(self, name: str) -> bool:
        """See ``CheckpointModule``: images, and the decoder's tensors under other names."""
        scalar = name.startswith(f"{ENCODER}language_model.layers.") and "layer_scalar" in name
        return name == "lm_head.weight" or (name.startswith(ENCODER) and not scalar)

    def reserve(self, slots: int) -> None:
        """See ``Denoiser``."""
        table = self.table
        self.slabs = self._slabs(slots)
        size = (2, slots + 1, self.config.hidden_size)
        self.means = torch.zeros(size, dtype=table.dtype, device=table.device)

    def copy_slots(self, sources: np.ndarray, targets: np.ndarray) -> None:
        """See ``Denoiser``; what is given has no mean embeddings."""
        for slab in self.slabs or ():
            slab.copy(sources, targets)

    def trunk(
        self,
        tokens: Tensor,
        offsets: Tensor,
        rows: Tensor | None = None,
        labels: Tensor | None = None,
        segments: Segments | None = None,
    ) -> Tensor:
        """See ``Denoiser``. Positions from ``segments.begins`` on are denoised, the others are
        encoded.
        """
        if labels is not None:
            raise ValueError("this network takes no labels")
        slabs = self.slabs
        if segments is None:
            segments = _canvases(offsets)
        elif slabs is None:
            raise ValueError("this network keeps no keys and values")
        segments = Segments(*segments)
        assert segments.begins is not None
        if rows is None:
            rows = torch.arange(tokens.numel(), device=tokens.device)
        padded = max(tokens.numel(), MIN_ROWS)
        denoised = segments.positions >= segments.begins[segments.sequence]
        at = torch.from_numpy(denoised.nonzero()[0]).to(tokens.device)
        sides = [
            self._side(kind, slab, segments, denoised, padded)
            for kind, slab in zip(self.config.kinds, slabs or self._slabs(0), strict=True)
        ]
        parts: Any = self.model
        decoder, encoder = parts["decoder"], parts["encoder"]["language_model"]
        h = self._embedded(pad_rows(tokens))
        canvas = (
            h[at]
            + decoder["self_conditioning"](pad_rows(self._means(segments, denoised)))[: len(at)]
        )
        h = h.index_copy(0, at, self.canvas_norm(canvas))
        on_canvas = h.new_zeros(padded, 1, dtype=torch.bool).index_fill_(0, at, True)
        wanted, last = pad_rows(rows), len(self.config.full) - 1
        layers = zip(decoder["layers"], encoder["layers"], self.config.full, strict=True)
        for i, (layer, own, full) in enumerate(layers):
            scalar = torch.where(on_canvas, layer.layer_scalar, own.layer_scalar)
            h = layer(h, sides[full], scalar, wanted if i == last else None)
        return decoder["norm"](h)[: rows.numel()]

    def head(self, hidden: Tensor) -> Tensor:
        """Hidden rows [R, D] -> logits [R, vocab_size] in fp32, within the cap."""
        cap, packed = self.config.final_logit_softcapping, self.packed_head
        logits = F.linear(hidden, self.table) if packed is None else packed(hidden)
        return logits.float().div_(cap).tanh_().mul_(cap)

    def expected(self, p: Tensor) -> Tensor:
        """See ``SelfConditioned``."""
        return p.to(self.table.dtype) @ self.table

    def remember(self, slots: Tensor, phases: Tensor, expected: Tensor) -> None:
        """See ``SelfConditioned``."""
        assert self.means is not None
        self.means[phases % 2, slots] = expected.to(self.means.dtype)

    @property
    def table(self) -> Tensor:
        """The embedding [V, D], which is also the matrix of the head."""
        parts: Any = self.model
        return parts["decoder"]["embed_tokens"].weight

    @property
    def wide_head(self) -> Tensor:
        """See ``DenoiserModule``: every step reads all rows of its canvases."""
        return self.table

    def _embedded(self, tokens: Tensor) -> Tensor:
        """Ids [T] -> scaled embeddings [T, D]."""
        scale = torch.tensor(self.config.hidden_size**0.5, dtype=self.table.dtype)
        return F.embedding(tokens, self.table) * scale

    def _means(self, segments: Segments, denoised: np.ndarray) -> Tensor:
        """Mean embeddings that the denoised positions read, scaled as tokens are; 0 in a first
        step.
        """
        sequence = segments.sequence[denoised]
        table, phases = self.table, segments.phases
        if self.means is None or phases is None:
            return table.new_zeros(len(sequence), table.shape[1])
        slots = segments.starts[sequence] + segments.positions[denoised]
        phase, at = (torch.from_numpy(x).to(table.device) for x in (phases[sequence], slots))
        scale = torch.tensor(self.config.hidden_size**0.5, dtype=table.dtype)
        return torch.where((phase > 0)[:, None], self.means[phase % 2, at] * scale, 0.0)

    def _side(
        self, kind: LayerKind, slab: Slab, segments: Segments, denoised: np.ndarray, rows: int
    ) -> Side:
        """The pass of a kind of layers. A position that is encoded sees itself and those before it,
        one that is denoised the canvas and what was encoded; where there is a window of W keys,
        W with itself, and W - 1 before the canvas.
        """
        assert segments.begins is not None
        at = segments.positions
        own = np.where(denoised, segments.begins[segments.sequence], at)
        low = np.zeros_like(at) if kind.window is None else own - kind.window + 1
        sight = Sight(low, np.where(denoised, FAR, at))
        attention = SlabAttention(slab, segments, rows, sight, scale=1.0)
        pair = torch.arange(kind.width // 2, device=slab.keys.device)
        turns = 1.0 / kind.base ** ((2 * pair).float() / kind.width)  # rounded as the official ones
        angle = attention.positions[:, None, None] * torch.where(pair < kind.rotated, turns, 0.0)
        return Side(attention, angle.cos(), angle.sin())

    def _slabs(self, slots: int) -> tuple[Slab, Slab]:
        """Room for keys and values of sliding and of full layers."""
        table, count = self.table, sum(self.config.full)
        counts = (len(self.config.full) - count, count)
        sliding, full = (
            Slab(CacheShape(n, kind.heads, kind.width), slots, table.dtype, table.device)
            for n, kind in zip(counts, self.config.kinds, strict=True)
        )
        return sliding, full


def _canvases(offsets: Tensor) -> Segments:
    """Sequences that are canvases without a prompt, of which nothing is kept."""
    lengths = offsets.diff().cpu().numpy()
    none = np.full_like(lengths, -1)
    first = np.repeat(lengths.cumsum() - lengths, lengths)
    return Segments(lengths, np.arange(len(first)) - first, none, lengths, np.zeros_like(lengths))


PUBLISHED: Fields = {
    "canvas_length": 256,
    "text_config": {
        "vocab_size": 262144,
        "hidden_size": 2816,
        "intermediate_size": 2112,
        "moe_intermediate_size": 704,
        "num_hidden_layers": 30,
        "num_attention_heads": 16,
        "num_key_value_heads": 8,
        "num_global_key_value_heads": 2,
        "head_dim": 256,
        "global_head_dim": 512,
        "max_position_embeddings": 262144,
        "sliding_window": 1024,
        "num_experts": 128,
        "top_k_experts": 8,
        "eos_token_id": 1,
    },
}
TINY: Fields = {
    "canvas_length": 16,
    "text_config": {
        "vocab_size": 512,
        "hidden_size": 64,
        "intermediate_size": 128,
        "moe_intermediate_size": 64,
        "num_hidden_layers": 3,
        "layer_types": ["sliding_attention", "sliding_attention", "full_attention"],
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "num_global_key_value_heads": 1,
        "head_dim": 16,
        "global_head_dim": 32,
        "max_position_embeddings": 512,
        "sliding_window": 24,
        "num_experts": 8,
        "top_k_experts": 2,
        "eos_token_id": 1,
    },
}


def read_defaults(said: Fields) -> Fields:
    """Our parameters from the published ``generation_config.json``: what stops a canvas has another
    name there, the bound stands inside an object, and several ids may end a text.

    Raises:
        UnsupportedConfig: a sampler that is not built.
    """
    found = dict(said)
    if (inner := found.pop("sampler_config", None)) is not None:
        kind = inner.get("_cls_name") if isinstance(inner, Mapping) else inner
        if kind != "EntropyBoundSamplerConfig":
            raise UnsupportedConfig(
                f"sampler_config in generation_config.json must be an EntropyBoundSamplerConfig, "
                f"got {str(kind)[:200]}"
            )
        if "entropy_bound" in inner:
            found.setdefault("entropy_bound", inner["entropy_bound"])
    if "confidence_threshold" in found:
        found.setdefault("stop_entropy", found.pop("confidence_threshold"))
    if isinstance(ends := found.get("eos_token_id"), list):
        found["more_ends"] = ends
    return found


FAMILY = FamilySpec(
    name="diffusion_gemma",
    title="DiffusionGemma",
    matches=lambda config: config.get("model_type") == "diffusion_gemma",
    read_config=read_config,
    build=DiffusionGemma,
    sign=frozenset({f"{DECODER}self_conditioning.gate_proj.weight"}),
    defaults={
        "sampler": "entropy_bound",
        "mixing_ratio": 1.0,
        "steps": 4096,
        "max_denoising_steps": 48,
        "entropy_bound": 0.1,
        "t_min": 0.4,
        "t_max": 0.8,
        "stability_threshold": 1,
        "stop_entropy": 0.005,
        "max_new_tokens": 256,
        "top_p_rule": "crossing",
    },
    read_defaults=read_defaults,
    sizes_in="text_config",
    shapes={"published": PUBLISHED, "tiny": TINY},
    random_config={"architectures": ["DiffusionGemmaForBlockDiffusion"]},
    random_sampler="entropy_bound",
)
