"""Sizes of a LLaDA, as ``config.json`` says them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from models.base import check_positions
from models.errors import UnsupportedConfig

# Fields that change the forward pass, and the only value that is built here.
_REQUIRED = {
    "activation_type": "silu",
    "layer_norm_type": "rms",
    "block_type": "llama",
    "rope": True,
    "alibi": False,
    "include_bias": False,
    "include_qkv_bias": False,
    "bias_for_layer_norm": False,
    "attention_layer_norm": False,
    "layer_norm_with_affine": True,
    "scale_logits": False,
    "input_emb_norm": False,
    "block_group_size": 1,
}

SIZES = (
    *("d_model", "n_layers", "n_heads", "n_kv_heads"),
    *("mlp_hidden_size", "vocab_size", "max_sequence_length"),
)
LARGEST = 2**24
"""No size of a network is larger; tables and loops are made of them before a weight is read."""
SHAPES: dict[str, dict[str, Any]] = {
    "llada-8b": {
        "d_model": 4096,
        "n_layers": 32,
        "n_heads": 32,
        "n_kv_heads": 32,
        "mlp_hidden_size": 12288,
        "vocab_size": 126464,
        "mask_token_id": 126336,
        "eos_token_id": 126081,
        "max_sequence_length": 4096,
    },
    "tiny": {
        "d_model": 64,
        "n_layers": 2,
        "n_heads": 4,
        "n_kv_heads": 4,
        "mlp_hidden_size": 128,
        "vocab_size": 512,
        "mask_token_id": 511,
        "eos_token_id": 1,
        "max_sequence_length": 512,
    },
}
"""Fields of ``config.json``, by the name of the shape."""


@dataclass(frozen=True)
class LLaDAConfig:
    """The fields of ``config.json`` that shape the network."""

    d_model: int
    n_layers: int
    n_heads: int
    n_kv_heads: int
    mlp_hidden_size: int
    vocab_size: int
    mask_token_id: int
    eos_token_id: int
    max_sequence_length: int
    rope_theta: float = 500_000.0
    rms_norm_eps: float = 1e-5
    weight_tying: bool = False

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any]) -> LLaDAConfig:
        """Read a ``config.json``.

        Raises:
            UnsupportedConfig: another architecture (LLaDA-MoE shares the model_type), or a field
            with a
                value that would need different arithmetic. The message names the field.
        """
        if raw.get("model_type") != "llada":
            raise UnsupportedConfig(f"model_type is {raw.get('model_type')!r}, expected 'llada'")
        if "num_experts" in raw or ("hidden_size" in raw and "d_model" not in raw):
            raise UnsupportedConfig("this is LLaDA-MoE (num_experts / hidden_size), not LLaDA")
        for field, value in _REQUIRED.items():
            if raw.get(field, value) != value:
                raise UnsupportedConfig(
                    f"{field} = {raw[field]!r} is not supported, only {value!r}"
                )
        try:
            heads = raw["n_heads"]
            kv_heads = raw.get("n_kv_heads")
            if kv_heads is None:
                kv_heads = 1 if raw.get("multi_query_attention") else heads
            config = cls(
                d_model=raw["d_model"],
                n_layers=raw["n_layers"],
                n_heads=heads,
                n_kv_heads=kv_heads,
                mlp_hidden_size=_mlp_hidden_size(raw),
                vocab_size=raw.get("embedding_size") or raw["vocab_size"],
                mask_token_id=raw["mask_token_id"],
                eos_token_id=raw["eos_token_id"],
                max_sequence_length=raw["max_sequence_length"],
                rope_theta=raw.get("rope_theta", cls.rope_theta),
                rms_norm_eps=raw.get("rms_norm_eps", cls.rms_norm_eps),
                weight_tying=raw.get("weight_tying", False),
            )
        except KeyError as missing:
            raise UnsupportedConfig(f"config.json lacks {missing}") from None
        config.check()
        return config

    def check(self) -> None:
        """Refuse what cannot be built.

        Raises:
            UnsupportedConfig: naming the field.
        """
        for field in SIZES:
            value = getattr(self, field)
            if not isinstance(value, int) or isinstance(value, bool) or not 0 < value <= LARGEST:
                raise UnsupportedConfig(
                    f"{field} must be a positive integer up to {LARGEST}, got {value!r}"
                )
        for field in ("rope_theta", "rms_norm_eps"):
            value = getattr(self, field)
            if (
                isinstance(value, bool)
                or not isinstance(value, int | float)
                or not 0 < value < 1e12
            ):
                raise UnsupportedConfig(f"{field} must be a positive number, got {value!r}")
        for field in ("mask_token_id", "eos_token_id"):
            value = getattr(self, field)
            if not isinstance(value, int) or isinstance(value, bool):
                raise UnsupportedConfig(f"{field} must be an id, got {value!r}")
        if not isinstance(self.weight_tying, bool):
            raise UnsupportedConfig(
                f"weight_tying must be true or false, got {self.weight_tying!r}"
            )
        if self.d_model % self.n_heads or (self.d_model // self.n_heads) % 2:
            raise UnsupportedConfig("d_model must be an even multiple of n_heads")
        if self.n_heads % self.n_kv_heads:
            raise UnsupportedConfig("n_heads must be a multiple of n_kv_heads")
        if not 0 <= self.mask_token_id < self.vocab_size:
            raise UnsupportedConfig("mask_token_id lies outside the vocabulary")
        if not 0 <= self.eos_token_id < self.vocab_size:
            raise UnsupportedConfig("eos_token_id lies outside the vocabulary")
        check_positions("max_sequence_length", self.max_sequence_length, self.head_dim)

    @property
    def head_dim(self) -> int:
        """Width of one attention head."""
        return self.d_model // self.n_heads


def _mlp_hidden_size(raw: Mapping[str, Any]) -> Any:
    """The field, or the product of ``mlp_ratio`` and ``d_model`` where it is null or missing."""
    if raw.get("mlp_hidden_size") is not None:
        return raw["mlp_hidden_size"]
    for field in ("mlp_ratio", "d_model"):
        value = raw[field]
        if not isinstance(value, int) or isinstance(value, bool) or not 0 < value <= LARGEST:
            raise UnsupportedConfig(f"{field} must be a positive integer, got {value!r}")
    return raw["mlp_ratio"] * raw["d_model"]
