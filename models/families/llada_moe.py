"""LLaDA-MoE (arXiv:2509.24389), built natively from a checkpoint's ``config.json`` (model_type
``llada`` with ``num_experts``).

Bidirectional attention with norms on the heads of queries and keys; a mixture of experts in the
layers that ``moe_layer_freq`` marks. The router's weights are a softmax over all experts and are
not divided by the sum of the chosen. Where it has a bias, the biased score is also the weight.
Logits are not shifted.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from models.errors import UnsupportedConfig
from models.families.decoder import MLP, Decoder, DecoderLayer, SparseMLP
from models.families.decoder_config import DecoderConfig, shard_plan
from models.families.experts import Routing
from models.families.fields import FieldReader
from models.family import FamilySpec, Fields, Shapes

MASK, END = 156895, 156892
"""Ids of the published vocabulary."""
TYPES = ("llada", "lladamoe")


class BiasedSparseMLP(SparseMLP):
    """A mixture whose bias, where it has one, is not the router's."""

    expert_bias: Tensor | None

    def __init__(self, hidden: int, routing: Routing) -> None:
        super().__init__(hidden, routing)
        bias = torch.zeros(routing.experts) if routing.bias else None
        self.register_buffer("expert_bias", bias)

    def bias(self) -> Tensor | None:
        """See ``SparseMLP``."""
        return self.expert_bias


class Layer(DecoderLayer):
    """A layer whose shared expert, where it has one, is beside the mixture."""

    def __init__(self, c: DecoderConfig, sparse: bool) -> None:
        super().__init__(c, sparse)
        shared = c.routing.shared if sparse and c.routing is not None else 0
        self.shared_expert = MLP(c.hidden_size, shared) if shared else None

    def mixture_of(self, hidden: int, routing: Routing) -> nn.Module:
        """See ``DecoderLayer``."""
        return BiasedSparseMLP(hidden, routing)

    def feed_forward(self, y: Tensor) -> Tensor:
        """See ``DecoderLayer``."""
        mixed = self.mlp(y)
        return mixed if self.shared_expert is None else mixed + self.shared_expert(y)


class LLaDAMoE(Decoder):
    """A ``Denoiser``; see ``Decoder``."""

    layer = Layer


def read_config(raw: Fields, shapes: Shapes | None) -> DecoderConfig:
    """Read a ``config.json``; see ``FamilySpec``."""
    read = FieldReader(raw, shapes)
    read.only(clip_qkv=None, attention_bias=False)
    layers, heads = read.layers(), read.size("num_attention_heads")
    sparse = raw.get("moe_layer_freq")
    if sparse is None:
        sparse = [1] * layers
    if (
        not isinstance(sparse, list)
        or len(sparse) != layers
        or any(flag not in (0, 1) for flag in sparse)
    ):
        raise UnsupportedConfig(f"moe_layer_freq must be {layers} zeros and ones, got {sparse!r}")
    head_dim = read.size("hidden_size") // heads
    routing = Routing(
        experts=read.size("num_experts"),
        chosen=read.size("num_experts_per_tok"),
        width=read.size("expert_intermediate_size"),
        shared=read.size_or_zero("shared_expert_intermediate_size"),
        bias=read.flag("moe_router_enable_expert_bias", False),
        bias_weighs=True,
    )
    return DecoderConfig.of(
        read,
        MASK,
        END,
        intermediate_size=read.size_or_zero("dense_intermediate_size", wanted=0 in sparse),
        rotary_size=int(head_dim * read.number("partial_rotary_factor", 1.0)),
        qk_norm=read.flag("qk_layernorm"),
        routing=routing,
        sparse=tuple(flag == 1 for flag in sparse),
    )


SHAPES: dict[str, Fields] = {
    "llada-moe-7b": {
        "vocab_size": 157184,
        "hidden_size": 2048,
        "dense_intermediate_size": 8192,
        "expert_intermediate_size": 1024,
        "num_hidden_layers": 16,
        "num_attention_heads": 16,
        "num_key_value_heads": 16,
        "num_experts": 64,
        "num_experts_per_tok": 8,
        "moe_layer_freq": [1] * 16,
        "max_position_embeddings": 8192,
        "mask_token_id": MASK,
        "eos_token_id": END,
    },
    "tiny": {
        "vocab_size": 512,
        "hidden_size": 64,
        "dense_intermediate_size": 128,
        "expert_intermediate_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 4,
        "num_experts": 8,
        "num_experts_per_tok": 2,
        "moe_layer_freq": [0, 1],
        "max_position_embeddings": 512,
        "mask_token_id": 511,
        "eos_token_id": 1,
    },
}
FAMILY = FamilySpec(
    name="llada_moe",
    model_type="llada",
    title="LLaDA-MoE",
    matches=lambda config: config.get("model_type") in TYPES and "num_experts" in config,
    read_config=read_config,
    build=LLaDAMoE,
    defaults={"sampler": "topk", "mixing_ratio": 0.0, "noise_schedule": "llada"},
    masks_only=True,
    shapes=SHAPES,
    random_config={
        "architectures": ["LLaDAModelLM"],
        "rope_theta": 50_000,
        "rms_norm_eps": 1e-5,
        "partial_rotary_factor": 1,
        "qk_layernorm": True,
    },
    random_sampler="topk",
    shards=shard_plan(
        "mlp",
        "shared_expert",
        sizes=("intermediate_size", "expert_size", "shared_expert_size"),
    ),
)
