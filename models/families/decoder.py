"""Transformers with the layout of Llama and Qwen, for the families that started from one.

Pre-norm blocks with grouped-query heads (arXiv:2305.13245), rotary positions over all or the first
dimensions of a head (arXiv:2104.09864), SwiGLU (arXiv:2002.05202) or a mixture of such experts.
Attention is bidirectional, or block-causal (arXiv:2503.09573): a position sees its own block and
all earlier ones. Modules have Qwen's names.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import torch.nn.functional as F
from torch import Tensor, nn

from models.attention import Attention
from models.base import Piece, RMSNorm, Rope, Transformer
from models.cache import CacheShape
from models.families.decoder_config import DecoderConfig
from models.families.experts import Experts, Router, Routing
from models.joined import Groups, Joined, products
from models.kernels.norm import add_norm
from models.kernels.rope import rotated
from models.packed import gated
from models.widening import linear


class SelfAttention(nn.Module):
    """Queries, keys and values, and the way back.

    Attributes:
        joins: layers of one input; see ``models.joined``.
    """

    joins: ClassVar[Groups] = {"qkv": ("q_proj", "k_proj", "v_proj")}
    qkv: Joined | None

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
        self.register_module("qkv", None)

    def forward(self, y: Tensor, attention: Attention, cos: Tensor, sin: Tensor) -> Tensor:
        """[T, D] -> [T, H d], what ``back`` takes."""
        q, k, v = (
            x.unflatten(-1, (-1, self.head_dim))
            for x in products(y, self.qkv, (self.q_proj, self.k_proj, self.v_proj))
        )
        norms = None
        if self.q_norm is not None and self.k_norm is not None:
            norms = (self.q_norm, self.k_norm)
        return attention(*rotated(q, k, cos, sin, norms), v).flatten(1)

    def back(self, mixed: Tensor) -> Tensor:
        """[R, H d] -> [R, D]."""
        return self.o_proj(mixed)


class MLP(nn.Module):
    """W_down(act(W_gate y) * W_up y).

    Attributes:
        act: of the gate, element by element: SwiGLU's silu.
        joins: layers of one input; see ``models.joined``.
    """

    joins: ClassVar[Groups] = {"gate_up": ("gate_proj", "up_proj")}
    gate_up: Joined | None
    act: Callable[[Tensor], Tensor] = staticmethod(F.silu)

    def __init__(self, hidden: int, width: int) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(hidden, width, bias=False)
        self.up_proj = nn.Linear(hidden, width, bias=False)
        self.down_proj = nn.Linear(width, hidden, bias=False)
        self.register_module("gate_up", None)

    def forward(self, y: Tensor) -> Tensor:
        """[R, D] -> same."""
        return self.down_proj(gated(self.gate_proj, self.up_proj, y, self.act, self.gate_up))


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
        self,
        h: Tensor,
        pending: Tensor | None,
        attention: Attention,
        cos: Tensor,
        sin: Tensor,
        rows: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        """Run the layer but for its last sum, which the norm that follows takes.

        Args:
            h: [T, D].
            pending: output of the layer before, which is still to be added to h; None in the first.
            attention, cos, sin: see ``Transformer.hidden``.
            rows: [R] if only some rows are asked for.

        Returns:
            h and pending as the next layer takes them, [T, D] or [R, D].
        """
        own: Any = getattr(self, self.attention_name)
        h, y = add_norm(h, pending, self.input_layernorm)
        mixed = own(y, attention, cos, sin)
        if rows is not None:
            h, mixed = h[rows], mixed[rows]
        h, y = add_norm(h, own.back(mixed), self.post_attention_layernorm)
        return h, self.feed_forward(y)


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
        self.block_length, self.shifted = config.block_length, config.shifted
        sparse = config.sparse or (False,) * config.num_hidden_layers
        self.widens = self.narrows = not any(sparse)
        self.own_head = self.widens and not config.tie_word_embeddings
        self.model = nn.ModuleDict(
            {
                self.embedding: nn.Embedding(config.vocab_size, config.hidden_size),
                "layers": nn.ModuleList(type(self).layer(config, s) for s in sparse),
                "norm": RMSNorm(config.hidden_size, config.rms_norm_eps),
            }
        )
        if not config.tie_word_embeddings:
            self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)

    @property
    def cache_shape(self) -> CacheShape:
        """See ``DenoiserModule``."""
        c = self.config
        return CacheShape(c.num_hidden_layers, c.num_key_value_heads, c.head_dim)

    def pieces(self) -> dict[str, Piece]:
        """See ``CheckpointModule``: the matrices of each expert."""
        found: dict[str, Piece] = {}
        for name, module in self.named_modules():
            if isinstance(module, Experts):
                found |= module.pieces(f"{name}.")
        return found

    def predictors(self, rows: Tensor, positions: Tensor) -> Tensor:
        """See ``Transformer``: the row before, where logits are shifted; the first position of a
        sequence has its own.
        """
        return rows - (positions[rows] > 0).long() if self.shifted else rows

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
        pending = None
        for layer in layers:
            h, pending = layer(h, pending, attention, cos, sin, None)
        h, pending = last(h, pending, attention, cos, sin, rows)
        return add_norm(h, pending, parts["norm"])[1]

    def head(self, hidden: Tensor) -> Tensor:
        """Hidden rows [R, D] -> logits [R, vocab_size]."""
        if not self.config.tie_word_embeddings:
            return self.lm_head(hidden)
        table: Any = self.model[self.embedding]
        return linear(hidden, table.weight)
