"""Dream (arXiv:2508.15487) and DiffuCoder (arXiv:2506.20639), built natively from a checkpoint's
``config.json`` (model_type ``Dream``).

Qwen2.5's layout with bidirectional attention. The hidden state of a position predicts the token
after it, as in the autoregressive model that they were trained from; the first position has its own
prediction.
"""

from __future__ import annotations

from models.families.decoder import Decoder
from models.families.decoder_config import SHARDS, DecoderConfig
from models.families.fields import FieldReader
from models.family import FamilySpec, Fields, Shapes

MASK, END = 151666, 151643
"""Ids of the published vocabulary."""


def read_config(raw: Fields, shapes: Shapes | None) -> DecoderConfig:
    """Read a ``config.json``; see ``FamilySpec``."""
    read = FieldReader(raw, shapes)
    width = read.size("intermediate_size")
    return DecoderConfig.of(read, MASK, END, intermediate_size=width, qkv_bias=True, shifted=True)


SHAPES: dict[str, Fields] = {
    "dream-7b": {
        "vocab_size": 152064,
        "hidden_size": 3584,
        "intermediate_size": 18944,
        "num_hidden_layers": 28,
        "num_attention_heads": 28,
        "num_key_value_heads": 4,
        "max_position_embeddings": 131072,
        "mask_token_id": MASK,
        "eos_token_id": END,
        "pad_token_id": END,
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
        "pad_token_id": 1,
    },
}
FAMILY = FamilySpec(
    name="dream",
    model_type="Dream",
    title="Dream",
    matches=lambda config: config.get("model_type") == "Dream",
    read_config=read_config,
    build=Decoder,
    defaults={
        "sampler": "dream",
        "mixing_ratio": 0.0,
        "noise_schedule": "llada",
        "first_alone": True,
        "top_p_rule": "crossing",
    },
    masks_only=True,
    shapes=SHAPES,
    random_config={"architectures": ["DreamModel"], "rope_theta": 1e6, "rms_norm_eps": 1e-6},
    random_sampler="dream",
    shards=SHARDS,
)
