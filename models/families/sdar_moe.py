"""SDAR-MoE (arXiv:2510.06303), built natively from a checkpoint's ``config.json`` (model_type
``sdar_moe``).

SDAR's attention with Qwen3-MoE's feed-forward: a softmax over all experts, whose weights are
divided by the sum of the chosen where ``norm_topk_prob`` says so.
"""

from __future__ import annotations

from models.errors import UnsupportedConfig
from models.families import sdar
from models.families.decoder import Decoder
from models.families.decoder_config import BLOCK_DEFAULTS, DecoderConfig, shard_plan
from models.families.experts import Routing
from models.families.fields import FieldReader
from models.family import FamilySpec, Fields, Shapes


def read_config(raw: Fields, shapes: Shapes | None) -> DecoderConfig:
    """Read a ``config.json``; see ``FamilySpec``."""
    read = FieldReader(raw, shapes)
    layers, every = read.layers(), read.size("decoder_sparse_step", 1)
    dense, below = raw.get("mlp_only_layers"), range(layers)
    if dense is None:
        dense = []
    if not isinstance(dense, list) or not all(type(i) is int and i in below for i in dense):
        raise UnsupportedConfig(f"mlp_only_layers must be layers below {layers}, got {dense!r}")
    sparse = tuple(i not in dense and (i + 1) % every == 0 for i in below)
    routing = Routing(
        experts=read.size("num_experts"),
        chosen=read.size("num_experts_per_tok"),
        width=read.size("moe_intermediate_size"),
        normalised=read.flag("norm_topk_prob"),
    )
    width = read.size_or_zero("intermediate_size", wanted=not all(sparse))
    return sdar.config_of(read, width, routing, sparse)


FAMILY = FamilySpec(
    name="sdar_moe",
    title="SDAR-MoE",
    matches=lambda config: config.get("model_type") == "sdar_moe",
    read_config=read_config,
    build=Decoder,
    masks_only=True,
    defaults=BLOCK_DEFAULTS,
    shapes={
        "sdar-30b-a3b": {
            **sdar.shape(2048, 6144, 48, 32, 4),
            "moe_intermediate_size": 768,
            "num_experts": 128,
            "num_experts_per_tok": 8,
        },
        "tiny": {
            **sdar.TINY,
            "moe_intermediate_size": 64,
            "num_experts": 8,
            "num_experts_per_tok": 2,
        },
    },
    random_config={
        **sdar.FAMILY.random_config,
        "architectures": ["SDARMoeForCausalLM"],
        "norm_topk_prob": True,
        "decoder_sparse_step": 1,
        "mlp_only_layers": [],
    },
    random_sampler="threshold",
    told_by_name=sdar.told_by_name,
    shards=shard_plan("mlp", sizes=("intermediate_size", "expert_size")),
)
