"""SDAR (arXiv:2510.06303), built natively from a checkpoint's ``config.json`` (model_type
``sdar``).

Qwen3's dense layout with block-causal attention. Logits are not shifted. The length of a block is a
fact of the training: ``block_size`` in ``config.json``; published files do not have it, and the
names of their repositories end in ``-b8``, ``-b16``, ``-b32`` or ``-b64``, or it is 4.
"""

from __future__ import annotations

import re

from models.families.decoder import Decoder
from models.families.decoder_config import BLOCK_DEFAULTS, SHARDS, DecoderConfig
from models.families.experts import Routing
from models.families.fields import FieldReader
from models.family import FamilySpec, Fields, Shapes

MASK, END = 151669, 151643
"""Ids of the published vocabulary."""
BLOCK_SIZE = 4


def config_of(
    read: FieldReader,
    width: int,
    routing: Routing | None = None,
    sparse: tuple[bool, ...] = (),
) -> DecoderConfig:
    """The config of an SDAR, dense or with experts.

    Args:
        read: fields of ``config.json``.
        width: of dense layers.
        routing, sparse: see ``DecoderConfig``.

    Raises:
        UnsupportedConfig: naming the field.
    """
    read.only(attention_bias=False)
    heads = read.size("num_attention_heads")
    return DecoderConfig.of(
        read,
        MASK,
        END,
        head_dim=read.size("head_dim", read.size("hidden_size") // heads),
        intermediate_size=width,
        qk_norm=True,
        block_length=read.size("block_size", BLOCK_SIZE),
        routing=routing,
        sparse=sparse,
    )


def told_by_name(name: str) -> Fields:
    """See ``FamilySpec``."""
    found = re.search(r"-b(\d{1,4})$", name)
    return {} if found is None else {"block_size": int(found[1])}


def read_config(raw: Fields, shapes: Shapes | None) -> DecoderConfig:
    """Read a ``config.json``; see ``FamilySpec``."""
    read = FieldReader(raw, shapes)
    return config_of(read, read.size("intermediate_size"))


def shape(hidden: int, width: int, layers: int, heads: int, kv_heads: int) -> dict[str, int]:
    """Fields of a published size."""
    return {
        "vocab_size": 151936,
        "hidden_size": hidden,
        "intermediate_size": width,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "head_dim": 128,
        "max_position_embeddings": 32768,
        "mask_token_id": MASK,
        "eos_token_id": END,
        "block_size": BLOCK_SIZE,
    }


TINY = {
    "vocab_size": 512,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 512,
    "mask_token_id": 511,
    "eos_token_id": 1,
    "block_size": BLOCK_SIZE,
}
FAMILY = FamilySpec(
    name="sdar",
    title="SDAR",
    matches=lambda config: config.get("model_type") == "sdar",
    read_config=read_config,
    build=Decoder,
    masks_only=True,
    defaults=BLOCK_DEFAULTS,
    shapes={
        "sdar-1.7b": shape(2048, 6144, 28, 16, 8),
        "sdar-4b": shape(2560, 9728, 36, 32, 8),
        "sdar-8b": shape(4096, 12288, 36, 32, 8),
        "tiny": TINY,
    },
    random_config={
        "architectures": ["SDARForCausalLM"],
        "rope_theta": 1_000_000,
        "rms_norm_eps": 1e-6,
    },
    random_sampler="threshold",
    told_by_name=told_by_name,
    shards=SHARDS,
)
