"""Fast-dLLM v2 (arXiv:2509.26328), built natively from a checkpoint's ``config.json`` (model_type
``Fast_dLLM_Qwen``).

Qwen2.5's layout with block-causal attention over blocks of ``bd_size``. The hidden state of a
position predicts the token after it; that of a block's last position is taken when its block is
written, and its token begins the next block. Blocks are filled in parts of 8 positions.
"""

from __future__ import annotations

from models.families.decoder import Decoder
from models.families.decoder_config import BLOCK_DEFAULTS, SHARDS, DecoderConfig
from models.families.fields import FieldReader
from models.family import FamilySpec, Fields, Shapes

MASK, END = 151665, 151645
"""Ids of the published vocabulary."""
BLOCK_SIZE, SUB_BLOCK = 32, 8
TYPE = "Fast_dLLM_Qwen"


def read_config(raw: Fields, shapes: Shapes | None) -> DecoderConfig:
    """Read a ``config.json``; see ``FamilySpec``."""
    read = FieldReader(raw, shapes)
    return DecoderConfig.of(
        read,
        MASK,
        END,
        intermediate_size=read.size("intermediate_size"),
        qkv_bias=True,
        shifted=True,
        block_length=read.size("bd_size", BLOCK_SIZE),
    )


FAMILY = FamilySpec(
    name="fast_dllm_v2",
    model_type=TYPE,
    title="Fast-dLLM v2",
    matches=lambda config: config.get("model_type") == TYPE,
    read_config=read_config,
    build=Decoder,
    masks_only=True,
    defaults=BLOCK_DEFAULTS | {"sub_block_length": SUB_BLOCK, "first_alone": True},
    shapes={
        "fast-dllm-v2-7b": {
            "vocab_size": 152064,
            "hidden_size": 3584,
            "intermediate_size": 18944,
            "num_hidden_layers": 28,
            "num_attention_heads": 28,
            "num_key_value_heads": 4,
            "max_position_embeddings": 32768,
            "mask_token_id": MASK,
            "eos_token_id": END,
        },
        "tiny": {
            "vocab_size": 512,
            "hidden_size": 64,
            "intermediate_size": 128,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "max_position_embeddings": 512,
            "mask_token_id": 511,
            "eos_token_id": 1,
        },
    },
    random_config={
        "architectures": ["Fast_dLLM_QwenForCausalLM"],
        "rope_theta": 1_000_000,
        "rms_norm_eps": 1e-6,
        "bd_size": BLOCK_SIZE,
    },
    random_sampler="threshold",
    shards=SHARDS,
)
