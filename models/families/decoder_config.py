"""Sizes and choices of the networks with the layout of Llama and Qwen, and how ranks share them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from models.base import check_positions
from models.errors import UnsupportedConfig
from models.families.experts import Routing
from models.families.fields import FieldReader
from models.family import ShardPlan

BLOCK_DEFAULTS = {
    "sampler": "threshold",
    "mixing_ratio": 0.0,
    "noise_schedule": "llada",
    "block_aligned": True,
    "steps": 4096,
    "top_p_rule": "crossing",
    "confidence_from": "draw",
}
"""Of requests to networks with block-causal attention. ``steps`` is only a bound here: each fills
at least one position."""
HEADS = ("num_attention_heads", "num_key_value_heads")


def shard_plan(*mlps: str, attention: bool = True, sizes: tuple[str, ...] = ()) -> ShardPlan:
    """The plan of a family with this layout.

    Args:
        mlps: names of the SwiGLU networks in a layer.
        attention: the heads are divided too.
        sizes: fields whose sizes are divided beside those of the heads.
    """
    block = "model.layers.*."
    columns = [f"{block}{mlp}.{name}" for mlp in mlps for name in ("gate_proj", "up_proj")]
    rows = [f"{block}{mlp}.down_proj" for mlp in mlps]
    if attention:
        columns += [f"{block}self_attn.{name}" for name in ("q_proj", "k_proj", "v_proj")]
        rows.append(f"{block}self_attn.o_proj")
    divided = (*(HEADS if attention else ()), *sizes)
    return ShardPlan(tuple(columns), tuple(rows), divided, head="lm_head")


SHARDS = shard_plan("mlp", sizes=("intermediate_size",))
"""Of networks without experts."""


@dataclass(frozen=True)
class DecoderConfig:
    """Sizes and choices that shape the network; most have the names of ``config.json``.

    Attributes:
        rotary_size: dimensions of a head, from the first on, that positions rotate.
        qkv_bias: queries, keys and values have a bias.
        qk_norm: queries and keys are normalised, head by head, before they are rotated.
        block_length: positions of a block of block-causal attention; None for bidirectional.
        shifted: the hidden state of a position predicts the token after it, inside its block.
        routing: of the mixture of experts, where there is one.
        sparse: whether each block has the mixture; empty where none has.
    """

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    max_position_embeddings: int
    rms_norm_eps: float
    rope_theta: float
    rotary_size: int
    mask_token_id: int
    eos_token_id: int
    tie_word_embeddings: bool = False
    qkv_bias: bool = False
    qk_norm: bool = False
    block_length: int | None = None
    shifted: bool = False
    routing: Routing | None = None
    sparse: tuple[bool, ...] = ()

    @property
    def expert_size(self) -> int:
        """Width of an expert; 0 without experts."""
        return 0 if self.routing is None else self.routing.width

    @property
    def shared_expert_size(self) -> int:
        """Width of the shared expert; 0 without one."""
        return 0 if self.routing is None else self.routing.shared

    @classmethod
    def of(cls, read: FieldReader, mask: int, end: int, **choices: Any) -> DecoderConfig:
        """Read the fields that all of these families have.

        Args:
            read: the fields.
            mask, end: ids of the published vocabulary, where the fields do not say them.
            choices: values of other attributes; these go before the fields.

        Raises:
            UnsupportedConfig: a field missing, or one that cannot be built. The message names it.
        """
        read.only(hidden_act="silu", rope_scaling=None, use_sliding_window=False)
        heads, hidden = read.size("num_attention_heads"), read.size("hidden_size")
        vocab_size = read.size("vocab_size")
        kv_heads = read.size("num_key_value_heads", heads)
        head_dim = choices.get("head_dim") or hidden // heads
        config = cls(
            **{
                "vocab_size": vocab_size,
                "hidden_size": hidden,
                "num_hidden_layers": read.layers(),
                "num_attention_heads": heads,
                "num_key_value_heads": kv_heads,
                "head_dim": head_dim,
                "max_position_embeddings": read.size("max_position_embeddings"),
                "rms_norm_eps": read.number("rms_norm_eps"),
                "rope_theta": read.number("rope_theta"),
                "rotary_size": head_dim,
                "mask_token_id": read.token("mask_token_id", vocab_size, mask),
                "eos_token_id": read.token("eos_token_id", vocab_size, end),
                "tie_word_embeddings": read.flag("tie_word_embeddings", False),
                **choices,
            }
        )
        config.check(read, by_heads="head_dim" not in choices)
        return config

    def check(self, read: FieldReader, by_heads: bool) -> None:
        """Refuse sizes that do not fit one another, or the weights.

        Args:
            read: the fields.
            by_heads: ``head_dim`` is a quotient of two fields, and not one of its own.

        Raises:
            UnsupportedConfig: naming the fields.
        """
        heads, kv_heads, hidden = (
            self.num_attention_heads,
            self.num_key_value_heads,
            self.hidden_size,
        )
        if by_heads and hidden % heads:
            raise UnsupportedConfig(
                f"hidden_size = {hidden} is not a multiple of num_attention_heads = {heads}"
            )
        if heads % kv_heads:
            raise UnsupportedConfig(
                f"num_attention_heads = {heads} is not a multiple of num_key_value_heads = "
                f"{kv_heads}"
            )
        if self.rotary_size % 2 or not 0 < self.rotary_size <= self.head_dim:
            raise UnsupportedConfig(
                f"positions rotate {self.rotary_size} of head_dim = {self.head_dim} dimensions; "
                "these must be an even number of them"
            )
        check_positions("max_position_embeddings", self.max_position_embeddings, self.rotary_size)
        if (routing := self.routing) is not None:
            _check_routing(routing)
            read.check_stored("num_experts", routing.experts * sum(self.sparse))


def _check_routing(routing: Routing) -> None:
    if routing.chosen > routing.experts:
        raise UnsupportedConfig(
            f"num_experts_per_tok = {routing.chosen} is more than num_experts = {routing.experts}"
        )
    if routing.groups == 1:
        return
    if routing.experts % routing.groups or routing.experts < 2 * routing.groups:
        raise UnsupportedConfig(
            f"num_experts = {routing.experts} cannot form n_group = {routing.groups} groups of two "
            "or more"
        )
    reached = routing.chosen_groups * routing.experts // routing.groups
    if routing.chosen_groups > routing.groups or routing.chosen > reached:
        raise UnsupportedConfig(
            f"topk_group = {routing.chosen_groups} of n_group = {routing.groups} groups do not "
            f"hold num_experts_per_tok = {routing.chosen}"
        )
