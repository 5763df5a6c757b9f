"""LLaDA2.0 and LLaDA2.1 (arXiv:2512.15745), built natively from a checkpoint's ``config.json``
(model_type ``llada2_moe``). Both are one architecture.

Block-causal attention with one matrix for queries, keys and values, norms on the heads of queries
and keys, and rotary positions over the first dimensions of a head. After some dense layers the
feed-forward is a mixture of experts whose router scores by sigmoids, in groups, with a bias that
only decides which experts are chosen (DeepSeek-V3, arXiv:2412.19437), beside a shared expert.
Logits are not shifted.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from models.attention import Attention
from models.base import RMSNorm
from models.errors import UnsupportedConfig
from models.families.decoder import MLP, Decoder, DecoderLayer, SparseMLP
from models.families.decoder_config import BLOCK_DEFAULTS, DecoderConfig, shard_plan
from models.families.experts import Router, Routing
from models.families.fields import FieldReader
from models.family import FamilySpec, Fields, Shapes
from models.kernels.rope import rotated

MASK, END = 156895, 156892
"""Ids of the published vocabulary, which ``config.json`` does not say."""
BLOCK_LENGTH = 32
"""Of the published checkpoints, which ``config.json`` does not say either."""


class FusedAttention(nn.Module):
    """Attention whose queries, keys and values come from one matrix, in this order."""

    def __init__(self, c: DecoderConfig) -> None:
        super().__init__()
        self.head_dim = c.head_dim
        self.heads = (c.num_attention_heads, c.num_key_value_heads, c.num_key_value_heads)
        width = sum(self.heads) * c.head_dim
        self.query_key_value = nn.Linear(c.hidden_size, width, bias=False)
        self.query_layernorm = RMSNorm(c.head_dim, c.rms_norm_eps) if c.qk_norm else None
        self.key_layernorm = RMSNorm(c.head_dim, c.rms_norm_eps) if c.qk_norm else None
        self.dense = nn.Linear(c.num_attention_heads * c.head_dim, c.hidden_size, bias=False)

    def forward(self, y: Tensor, attention: Attention, cos: Tensor, sin: Tensor) -> Tensor:
        """[T, D] -> [T, H d], the input of ``back``."""
        q, k, v = self.query_key_value(y).unflatten(-1, (-1, self.head_dim)).split(self.heads, 1)
        norms = None
        if self.query_layernorm is not None and self.key_layernorm is not None:
            norms = (self.query_layernorm, self.key_layernorm)
        return attention(*rotated(q, k, cos, sin, norms), v).flatten(1)

    def back(self, mixed: Tensor) -> Tensor:
        """[R, H d] -> [R, D]."""
        return self.dense(mixed)


class BiasedRouter(Router):
    """A router with a bias of each expert."""

    expert_bias: Tensor

    def __init__(self, hidden: int, experts: int) -> None:
        super().__init__(hidden, experts)
        self.register_buffer("expert_bias", torch.zeros(experts))


class SharedSparseMLP(SparseMLP):
    """A mixture with a shared expert beside it."""

    router = BiasedRouter

    def __init__(self, hidden: int, routing: Routing) -> None:
        super().__init__(hidden, routing)
        self.shared_experts = MLP(hidden, routing.shared) if routing.shared else None

    def bias(self) -> Tensor:
        """See ``SparseMLP``."""
        assert isinstance(self.gate, BiasedRouter)
        return self.gate.expert_bias

    def forward(self, y: Tensor) -> Tensor:
        """[R, D] -> same."""
        mixed = super().forward(y)
        return mixed if self.shared_experts is None else mixed + self.shared_experts(y)


class Layer(DecoderLayer):
    """A layer with the modules above."""

    attention_name = "attention"

    def attention_of(self, c: DecoderConfig) -> nn.Module:
        """See ``DecoderLayer``."""
        return FusedAttention(c)

    def mixture_of(self, hidden: int, routing: Routing) -> nn.Module:
        """See ``DecoderLayer``."""
        return SharedSparseMLP(hidden, routing)


class LLaDA2(Decoder):
    """A ``Denoiser``; see ``Decoder``."""

    embedding = "word_embeddings"
    layer = Layer


def read_config(raw: Fields, shapes: Shapes | None) -> DecoderConfig:
    """Read a ``config.json``; see ``FamilySpec``. ``block_length`` may be one of its fields."""
    read = FieldReader(raw, shapes)
    if raw.get("model_type") != "llada2_moe":
        raise UnsupportedConfig(
            f"model_type is {raw.get('model_type')!r}, a layout with merged experts; only the "
            "published layout, 'llada2_moe', is read"
        )
    read.refuse("expert_capacity", "delete_token_id", "split_token_id")  # LLaDA2.2
    read.only(use_bias=False, use_qkv_bias=False, norm_topk_prob=True, score_function="sigmoid")
    read.only(router_dtype="fp32", moe_router_enable_expert_bias=True)
    layers, dense = read.layers(), read.size("first_k_dense_replace", 0, least=0)
    heads = read.size("num_attention_heads")
    head_dim = read.size("head_dim", read.size("hidden_size") // heads)
    width = read.size("moe_intermediate_size")
    chosen = read.size("num_experts_per_tok")
    routing = Routing(
        experts=read.size("num_experts"),
        chosen=chosen,
        width=width,
        shared=width * read.size("num_shared_experts", 0, least=0),
        sigmoid=True,
        bias=True,
        normalised=chosen > 1,
        scale=read.number("routed_scaling_factor"),
        groups=read.size("n_group"),
        chosen_groups=read.size("topk_group"),
    )
    return DecoderConfig.of(
        read,
        MASK,
        END,
        head_dim=head_dim,
        intermediate_size=read.size_or_zero("intermediate_size", wanted=dense > 0),
        num_key_value_heads=read.size("num_key_value_heads"),
        rotary_size=int(head_dim * read.number("partial_rotary_factor", 1.0)),
        qk_norm=read.flag("use_qk_norm", True),
        block_length=read.size("block_length", BLOCK_LENGTH),
        routing=routing,
        sparse=tuple(i >= dense for i in range(layers)),
    )


SHAPES: dict[str, Fields] = {
    "llada2-mini": {
        "vocab_size": 157184,
        "hidden_size": 2048,
        "intermediate_size": 5120,
        "moe_intermediate_size": 512,
        "num_hidden_layers": 20,
        "first_k_dense_replace": 1,
        "num_attention_heads": 16,
        "num_key_value_heads": 4,
        "head_dim": 128,
        "num_experts": 256,
        "num_experts_per_tok": 8,
        "n_group": 8,
        "topk_group": 4,
        "max_position_embeddings": 32768,
        "pad_token_id": END,
    },
    "llada2-flash": {
        "vocab_size": 157184,
        "hidden_size": 4096,
        "intermediate_size": 9216,
        "moe_intermediate_size": 1024,
        "num_hidden_layers": 32,
        "first_k_dense_replace": 1,
        "num_attention_heads": 32,
        "num_key_value_heads": 4,
        "head_dim": 128,
        "num_experts": 256,
        "num_experts_per_tok": 8,
        "n_group": 8,
        "topk_group": 4,
        "max_position_embeddings": 32768,
        "pad_token_id": END,
    },
    "tiny": {
        "vocab_size": 512,
        "hidden_size": 64,
        "intermediate_size": 128,
        "moe_intermediate_size": 64,
        "num_hidden_layers": 3,
        "first_k_dense_replace": 1,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "num_experts": 16,
        "num_experts_per_tok": 4,
        "n_group": 4,
        "topk_group": 2,
        "max_position_embeddings": 512,
        "mask_token_id": 511,
        "eos_token_id": 1,
    },
}
FAMILY = FamilySpec(
    name="llada2_moe",
    title="LLaDA2",
    matches=lambda config: str(config.get("model_type")).startswith("llada2_moe"),
    read_config=read_config,
    build=LLaDA2,
    sign=frozenset({"model.word_embeddings.weight"}),
    masks_only=True,
    defaults={**BLOCK_DEFAULTS, "confidence_threshold": 0.95, "temperature": 0.0},
    shapes=SHAPES,
    random_config={
        "architectures": ["LLaDA2MoeModelLM"],
        "rope_theta": 600_000,
        "rms_norm_eps": 1e-6,
        "partial_rotary_factor": 0.5,
        "routed_scaling_factor": 2.5,
        "num_shared_experts": 1,
        "norm_topk_prob": True,
        "score_function": "sigmoid",
        "router_dtype": "fp32",
        "moe_router_enable_expert_bias": True,
        "use_bias": False,
        "use_qkv_bias": False,
    },
    random_sampler="threshold",
    shards=shard_plan(  # one matrix of all heads is not divided; experts are most of the weights
        "mlp",
        "mlp.shared_experts",
        attention=False,
        sizes=("intermediate_size", "expert_size", "shared_expert_size"),
    ),
)
