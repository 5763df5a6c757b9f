"""The LLaDA architecture (arXiv:2502.09992), built natively from a checkpoint's ``config.json``
(model_type ``llada``).

A Llama-style transformer without a causal mask: RMSNorm (arXiv:1910.07467), rotary positions
(arXiv:2104.09864), SwiGLU (arXiv:2002.05202), no biases, grouped-query heads (arXiv:2305.13245)
where the config asks for them. Logits are not shifted: position i predicts
token i. Parameter names are those of the published checkpoints; note that ``ff_out`` names both a
block's down projection and the language-model head.
"""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor, nn

from models.attention import Attention
from models.base import RMSNorm, Rope, Transformer
from models.cache import CacheShape
from models.errors import UnsupportedConfig
from models.families.llada_config import SHAPES, LLaDAConfig
from models.family import FamilySpec, Fields, Shapes, ShardPlan
from models.joined import Groups, Joined, products
from models.kernels.norm import add_norm
from models.kernels.rope import rotated
from models.packed import gated
from models.widening import linear


class Block(nn.Module):
    """h += Wo attn(RMS(h)); h += W_down(silu(W_gate y) * W_up y), y = RMS(h).

    Attributes:
        joins: layers of one input; see ``models.joined``.
    """

    joins: ClassVar[Groups] = {
        "qkv": ("q_proj", "k_proj", "v_proj"),
        "gate_up": ("ff_proj", "up_proj"),
    }
    qkv: Joined | None
    gate_up: Joined | None

    def __init__(self, c: LLaDAConfig) -> None:
        super().__init__()
        kv = c.n_kv_heads * c.head_dim
        self.head_dim = c.head_dim
        self.attn_norm = RMSNorm(c.d_model, c.rms_norm_eps)
        self.q_proj = nn.Linear(c.d_model, c.d_model, bias=False)
        self.k_proj = nn.Linear(c.d_model, kv, bias=False)
        self.v_proj = nn.Linear(c.d_model, kv, bias=False)
        self.attn_out = nn.Linear(c.d_model, c.d_model, bias=False)
        self.ff_norm = RMSNorm(c.d_model, c.rms_norm_eps)
        self.ff_proj = nn.Linear(c.d_model, c.mlp_hidden_size, bias=False)
        self.up_proj = nn.Linear(c.d_model, c.mlp_hidden_size, bias=False)
        self.ff_out = nn.Linear(c.mlp_hidden_size, c.d_model, bias=False)
        for name in self.joins:
            self.register_module(name, None)

    def forward(
        self,
        h: Tensor,
        pending: Tensor | None,
        attention: Attention,
        cos: Tensor,
        sin: Tensor,
        rows: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        """Run the block but for its last sum, which the norm that follows takes.

        Args:
            h: [T, d_model].
            pending: output of the block before, which is still to be added to h; None in the first.
            attention, cos, sin: see ``Transformer.hidden``.
            rows: [R] if only some rows are asked for.

        Returns:
            h and pending as the next block takes them, [T, d_model] or [R, d_model].
        """
        h, y = add_norm(h, pending, self.attn_norm)
        q, k, v = (
            x.unflatten(-1, (-1, self.head_dim))
            for x in products(y, self.qkv, (self.q_proj, self.k_proj, self.v_proj))
        )
        mixed = attention(*rotated(q, k, cos, sin), v).flatten(1)
        if rows is not None:
            h, mixed = h[rows], mixed[rows]
        h, y = add_norm(h, self.attn_out(mixed), self.ff_norm)
        return h, self.ff_out(gated(self.ff_proj, self.up_proj, y, joined=self.gate_up))


class LLaDA(Transformer):
    """A ``Denoiser``: ``trunk`` maps packed tokens to hidden states, ``head`` some rows to
    logits.
    """

    widens = narrows = True

    def __init__(self, config: LLaDAConfig) -> None:
        super().__init__(Rope(config.max_sequence_length, config.head_dim, config.rope_theta))
        self.config = config
        self.own_head = not config.weight_tying
        transformer = nn.ModuleDict(
            {
                "wte": nn.Embedding(config.vocab_size, config.d_model),
                "blocks": nn.ModuleList(Block(config) for _ in range(config.n_layers)),
                "ln_f": RMSNorm(config.d_model, config.rms_norm_eps),
            }
        )
        if not config.weight_tying:
            transformer["ff_out"] = nn.Linear(config.d_model, config.vocab_size, bias=False)
        self.model = nn.ModuleDict({"transformer": transformer})

    @property
    def cache_shape(self) -> CacheShape:
        """See ``DenoiserModule``."""
        return CacheShape(self.config.n_layers, self.config.n_kv_heads, self.config.head_dim)

    def hidden(
        self,
        tokens: Tensor,
        attention: Attention,
        rows: Tensor | None = None,
        labels: Tensor | None = None,
    ) -> Tensor:
        """Tokens [T] laid out as ``attention`` says -> normalised hidden states of ``rows`` [R], or
        of all; [R or T, d_model]. Behind its attention the last block runs on those rows alone.
        """
        parts: Any = self.model["transformer"]
        h = parts["wte"](tokens)
        cos, sin = self.cos[attention.positions], self.sin[attention.positions]
        *blocks, last = parts["blocks"]
        pending = None
        for block in blocks:
            h, pending = block(h, pending, attention, cos, sin, None)
        h, pending = last(h, pending, attention, cos, sin, rows)
        return add_norm(h, pending, parts["ln_f"])[1]

    def head(self, hidden: Tensor) -> Tensor:
        """Hidden rows [R, d_model] -> logits [R, vocab_size]."""
        parts: Any = self.model["transformer"]
        if not self.config.weight_tying:
            return parts["ff_out"](hidden)
        return linear(hidden, parts["wte"].weight)


def _read(raw: Fields, shapes: Shapes | None) -> LLaDAConfig:
    config = LLaDAConfig.from_dict(raw)
    if shapes is not None and config.n_layers > len(shapes):
        raise UnsupportedConfig(f"n_layers is {config.n_layers}: more than there are weights")
    return config


BLOCK = "model.transformer.blocks.*."
FAMILY = FamilySpec(
    name="llada",
    title="LLaDA",
    matches=lambda config: config.get("model_type") == "llada" and "num_experts" not in config,
    read_config=_read,
    build=LLaDA,
    sign=frozenset({"model.transformer.wte.weight"}),
    defaults={"sampler": "topk", "mixing_ratio": 0.0, "noise_schedule": "llada"},
    shapes=SHAPES,
    random_config={"rope_theta": 500_000.0, "rms_norm_eps": 1e-5},
    random_sampler="topk",
    shards=ShardPlan(
        columns=tuple(BLOCK + n for n in ("q_proj", "k_proj", "v_proj", "ff_proj", "up_proj")),
        rows=tuple(BLOCK + n for n in ("attn_out", "ff_out")),
        sizes=("n_heads", "n_kv_heads", "mlp_hidden_size"),
        head="model.transformer.ff_out",
    ),
)
