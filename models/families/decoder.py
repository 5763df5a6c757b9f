"""Transformers with the layout of Llama and Qwen, for the families that started from one.

Pre-norm blocks with grouped-query heads (arXiv:2305.13245), rotary positions over all or the first
dimensions of a head (arXiv:2104.09864), SwiGLU (arXiv:2002.05202) or a mixture of such experts.
Attention is bidirectional, or block-causal (arXiv:2503.09573): a position sees its own block and
all earlier ones. Modules have Qwen's names.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.attention import Attention
from models.base import Piece, RMSNorm, Rope, Transformer, check_positions, rotate
from models.errors import UnsupportedConfig
from models.families.experts import Experts, Router, Routing
from models.families.fields import FieldReader
from models.family import Shapes, ShardPlan

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
                "num_hidden_layers": read.size("num_hidden_layers"),
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
        config.check(by_heads="head_dim" not in choices)
        return config

    def check(self, by_heads: bool) -> None:
        """Refuse sizes that do not fit one another.

        Args:
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

    def check_stored(self, shapes: Shapes | None) -> DecoderConfig:
        """The config, if it does not ask for more layers or experts than there are weights.

        Raises:
            UnsupportedConfig: naming the field.
        """
        if shapes is None:
            return self
        if self.num_hidden_layers > len(shapes):
            raise UnsupportedConfig(
                f"num_hidden_layers is {self.num_hidden_layers}: more than there are weights"
            )
        if self.routing is not None and self.routing.experts * sum(self.sparse) > len(shapes):
            raise UnsupportedConfig(
                f"num_experts is {self.routing.experts}: more than there are weights"
            )
        return self


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


class SelfAttention(nn.Module):
    """Queries, keys and values, and the way back."""

    def __init__(self, c: DecoderConfig) -> None:
        super().__init__()
        self.head_dim = c.head_dim
        heads, kv = c.num_attention_heads * c.head_dim, c.num_key_value_heads * c.head_dim
        self.q_proj = nn.Linear(c.hidden_size, heads, bias=c.qkv_bias)
        self.k_proj = nn.Linear(c.hidden_size, kv, bias=c.qkv_bias)
        self.v_proj = nn.Linear(c.hidden_size, kv, bias=c.qkv_bias)
        self.o_proj = nn.Linear(heads, c.hidden_size, bias=False)
        self.q_norm = RMSNorm(c.head_dim, c.rms_norm_eps) if c.qk_norm else None
        self.k_norm = RMSNorm(c.head_dim, c.rms_norm_eps) if c.qk_norm else None

    def forward(self, y: Tensor, attention: Attention, cos: Tensor, sin: Tensor) -> Tensor:
        """[T, D] -> [T, H d], what ``back`` takes."""
        q, k, v = (
            proj(y).unflatten(-1, (-1, self.head_dim))
            for proj in (self.q_proj, self.k_proj, self.v_proj)
        )
        if self.q_norm is not None and self.k_norm is not None:
            q, k = self.q_norm(q), self.k_norm(k)
        return attention(rotate(q, cos, sin), rotate(k, cos, sin), v).flatten(1)

    def back(self, mixed: Tensor) -> Tensor:
        """[R, H d] -> [R, D]."""
        return self.o_proj(mixed)


class MLP(nn.Module):
    """W_down(silu(W_gate y) * W_up y)."""

    def __init__(self, hidden: int, width: int) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(hidden, width, bias=False)
        self.up_proj = nn.Linear(hidden, width, bias=False)
        self.down_proj = nn.Linear(width, hidden, bias=False)

    def forward(self, y: Tensor) -> Tensor:
        """[R, D] -> same."""
        gate, up = F.silu(self.gate_proj(y)), self.up_proj(y)
        # in place where no gradient needs the factors: one buffer less to walk through
        return self.down_proj(gate * up if torch.is_grad_enabled() else gate.mul_(up))


class SparseMLP(nn.Module):
    """A router and its experts.

    Attributes:
        router: builds the router of hidden states of a width, for a number of experts.
    """

    router: ClassVar[Callable[[int, int], Router]] = Router

    def __init__(self, hidden: int, routing: Routing) -> None:
        super().__init__()
        self.routing = routing
        self.gate = type(self).router(hidden, routing.experts)
        self.experts = Experts(routing.experts, hidden, routing.width)

    def bias(self) -> Tensor | None:
        """Bias of the scores [E] in fp32, if there is one."""
        return None

    def forward(self, y: Tensor) -> Tensor:
        """[R, D] -> same."""
        weights, indices = self.routing.route(self.gate(y), self.bias())
        return self.experts(y, weights, indices)


class DecoderLayer(nn.Module):
    """h += Wo attn(RMS(h)); h += mlp(RMS(h)).

    Attributes:
        attention_name: of the attention, in the names of tensors.
    """

    attention_name = "self_attn"

    def __init__(self, c: DecoderConfig, sparse: bool) -> None:
        super().__init__()
        self.input_layernorm = RMSNorm(c.hidden_size, c.rms_norm_eps)
        self.add_module(self.attention_name, self.attention_of(c))
        self.post_attention_layernorm = RMSNorm(c.hidden_size, c.rms_norm_eps)
        routing = c.routing if sparse else None
        self.mlp = (
            MLP(c.hidden_size, c.intermediate_size)
            if routing is None
            else self.mixture_of(c.hidden_size, routing)
        )

    def attention_of(self, c: DecoderConfig) -> nn.Module:
        """Build the attention."""
        return SelfAttention(c)

    def mixture_of(self, hidden: int, routing: Routing) -> nn.Module:
        """Build the mixture of experts."""
        return SparseMLP(hidden, routing)

    def feed_forward(self, y: Tensor) -> Tensor:
        """[R, D] -> same."""
        return self.mlp(y)

    def forward(
        self, h: Tensor, attention: Attention, cos: Tensor, sin: Tensor, rows: Tensor | None
    ) -> Tensor:
        """H [T, D] -> same, or [R, D] if only some rows are asked for."""
        own: Any = getattr(self, self.attention_name)
        mixed = own(self.input_layernorm(h), attention, cos, sin)
        if rows is not None:
            h, mixed = h[rows], mixed[rows]
        h = h + own.back(mixed)
        return h + self.feed_forward(self.post_attention_layernorm(h))


class Decoder(Transformer):
    """A ``Denoiser``: ``trunk`` maps packed tokens to hidden states, ``head`` some rows to logits.

    Attributes:
        config: its sizes and choices.
        embedding: name of the embedding, in the names of tensors.
        layer: builds a layer of a config; whether it has the mixture of experts comes second.
    """

    wide = (".gate.", "expert_bias")
    embedding = "embed_tokens"
    layer: ClassVar[Callable[[DecoderConfig, bool], DecoderLayer]] = DecoderLayer

    def __init__(self, config: DecoderConfig) -> None:
        rope = Rope(config.max_position_embeddings, config.rotary_size, config.rope_theta)
        super().__init__(rope, config.head_dim)
        self.config = config
        self.block_length = config.block_length
        sparse = config.sparse or (False,) * config.num_hidden_layers
        self.model = nn.ModuleDict(
            {
                self.embedding: nn.Embedding(config.vocab_size, config.hidden_size),
                "layers": nn.ModuleList(type(self).layer(config, s) for s in sparse),
                "norm": RMSNorm(config.hidden_size, config.rms_norm_eps),
            }
        )
        if not config.tie_word_embeddings:
            self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)

    def pieces(self) -> dict[str, Piece]:
        """See ``CheckpointModule``: the matrices of each expert."""
        found: dict[str, Piece] = {}
        for name, module in self.named_modules():
            if isinstance(module, Experts):
                found |= module.pieces(f"{name}.")
        return found

    def predictors(self, rows: Tensor, positions: Tensor) -> Tensor:
        """See ``Transformer``: the row before, where logits are shifted; the first position of a
        sequence, or of a block where attention is block-causal, has its own.
        """
        if not self.config.shifted:
            return rows
        own = positions[rows]
        if self.block_length is not None:
            own = own % self.block_length
        return rows - (own > 0).long()

    def hidden(
        self,
        tokens: Tensor,
        attention: Attention,
        rows: Tensor | None = None,
        labels: Tensor | None = None,
    ) -> Tensor:
        """See ``Transformer``; behind the last norm."""
        parts: Any = self.model
        h = parts[self.embedding](tokens)
        cos, sin = self.cos[attention.positions], self.sin[attention.positions]
        *layers, last = parts["layers"]
        for layer in layers:
            h = layer(h, attention, cos, sin, None)
        return parts["norm"](last(h, attention, cos, sin, rows))

    def head(self, hidden: Tensor) -> Tensor:
        """Hidden rows [R, D] -> logits [R, vocab_size]."""
        if not self.config.tie_word_embeddings:
            return self.lm_head(hidden)
        table: Any = self.model[self.embedding]
        return F.linear(hidden, table.weight)
