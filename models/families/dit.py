"""The DiT (arXiv:2212.09748) of MDLM (arXiv:2406.07524) and XDLM, for text and for images of a
class, built natively from its sizes.

A transformer without a causal mask whose layer norms are modulated by a condition (adaLN): rotary
positions, one matrix for queries, keys and values, tanh-GELU, an output matrix of its own with a
bias. The condition depends on the label alone, so its modulation is worked out once for each label
when the weights are loaded (``models.families.adaln``). Logits are not shifted. Parameters have the
published names and stand in the published order of registration, in which unnamed lists of averaged
weights are stored.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.attention import Attention
from models.base import Rope, Transformer
from models.cache import CacheShape
from models.checkpoints.meta_init import without_values
from models.families.adaln import LabelEmbedding, TimeEmbedding, conditions, norm
from models.families.dit_config import (
    DIT_SHAPES,
    INV_FREQ,
    DiTConfig,
    guessed_fields,
    stored_sizes,
)
from models.family import FamilySpec, Fields, Shapes
from models.kernels.modulate import add_modulate
from models.kernels.rope import rotated
from models.packed import gelu_of

MLP_RATIO = 4
ROPE_BASE = 10_000.0
TYPES = ("dit", "xdlm", "mdlm", "udlm")
"""Values of ``model_type`` that name a DiT; third parties have published under their own."""
TOLD_BY = ("hidden_dim", "n_blocks")
OF_BLOCK, OF_NETWORK = 10, 10
"""Parameters of a block, and of a network beside its blocks and its table of labels."""


class TokenEmbedding(nn.Module):
    """Rows of a table [N, D]; the published name has no ``weight`` in it."""

    def __init__(self, count: int, width: int) -> None:
        super().__init__()
        self.embedding = nn.Parameter(torch.empty(count, width))
        nn.init.normal_(self.embedding, std=0.02)

    def forward(self, tokens: Tensor) -> Tensor:
        """[T] -> [T, D]."""
        return F.embedding(tokens, self.embedding)


def _chosen(vectors: Tensor, labels: Tensor | None) -> tuple[Tensor, ...]:
    """Vectors [C, n, D] of each label [T] -> n of [T, D]; without labels n of [D]."""
    return (vectors[0] if labels is None else vectors[labels]).unbind(-2)


class Block(nn.Module):
    """h += g1 Wo attn(LN1(h)); h += g2 W2 gelu(W1 LN2(h)); norms and gates g by the condition."""

    def __init__(self, c: DiTConfig) -> None:
        super().__init__()
        d = c.hidden_dim
        self.heads = c.n_heads
        self.norm1 = norm(d)
        self.attn_qkv = nn.Linear(d, 3 * d, bias=False)
        self.attn_out = nn.Linear(d, d, bias=False)
        self.norm2 = norm(d)
        self.mlp = nn.Sequential(
            nn.Linear(d, MLP_RATIO * d), nn.GELU(approximate="tanh"), nn.Linear(MLP_RATIO * d, d)
        )
        self.adaLN_modulation = nn.Linear(c.cond_dim, 6 * d)

    def modulation(self, condition: Tensor) -> Tensor:
        """Conditions [C, cond_dim] -> [C, 6, D]: gain, shift and gate of attention and of MLP."""
        parts = self.adaLN_modulation(condition).unflatten(-1, (6, -1))
        shift1, scale1, gate1, shift2, scale2, gate2 = parts.unbind(-2)
        gain1, gain2 = self.norm1.weight * (1 + scale1), self.norm2.weight * (1 + scale2)
        return torch.stack((gain1, shift1, gate1, gain2, shift2, gate2), -2)

    def fold(self) -> None:
        """Drop what only ``modulation`` needs."""
        del self.norm1, self.norm2, self.adaLN_modulation

    def forward(
        self,
        h: Tensor,
        pending: tuple[Tensor, Tensor] | None,
        vectors: Tensor,
        labels: Tensor | None,
        attention: Attention,
        cos: Tensor,
        sin: Tensor,
        rows: Tensor | None,
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """Run the block but for its last sum, which the norm that follows takes.

        Args:
            h: [T, D] in fp32.
            pending: output of the block before, of the type of the weights, and its gate, which are
                still to be added to h; None in the first block.
            vectors: modulation, [C, 6, D].
            labels: [T], if there are any.
            attention, cos, sin: see ``Transformer.hidden``.
            rows: [R] if only some rows are asked for.

        Returns:
            h and pending as the next block takes them, of [T, D] or [R, D].
        """
        gain1, shift1 = _chosen(vectors[:, :2], labels)
        kind = self.attn_qkv.weight.dtype
        h, y = add_modulate(h, pending, gain1, shift1, kind)
        q, k, v = self.attn_qkv(y).unflatten(-1, (3, self.heads, -1)).unbind(1)
        mixed = attention(*rotated(q, k, cos, sin), v).flatten(1)
        if rows is not None:
            h, mixed = h[rows], mixed[rows]
            labels = None if labels is None else labels[rows]
        gate1, gain2, shift2, gate2 = _chosen(vectors[:, 2:], labels)
        h, y = add_modulate(h, (self.attn_out(mixed), gate1), gain2, shift2, kind)
        inner, _, outer = self.mlp
        return h, (outer(gelu_of(inner, y)), gate2)


class OutputLayer(nn.Module):
    """The last modulated norm, and the matrix to logits."""

    def __init__(self, c: DiTConfig) -> None:
        super().__init__()
        self.norm_final = norm(c.hidden_dim)
        self.linear = nn.Linear(c.hidden_dim, c.vocab_size)
        self.adaLN_modulation = nn.Linear(c.cond_dim, 2 * c.hidden_dim)

    def modulation(self, condition: Tensor) -> Tensor:
        """Conditions [C, cond_dim] -> [C, 2, D]: gain and shift."""
        shift, scale = self.adaLN_modulation(condition).unflatten(-1, (2, -1)).unbind(-2)
        return torch.stack((self.norm_final.weight * (1 + scale), shift), -2)

    def fold(self) -> None:
        """Drop what only ``modulation`` needs."""
        del self.norm_final, self.adaLN_modulation


class DiT(Transformer):
    """A ``Denoiser``. The last modulated norm belongs to ``trunk``, so ``head`` is one product.

    The residual stream, the norms and their modulation are fp32 whatever the weights are.
    """

    wide = ("sigma_map.", "y_embedder.", "norm", "adaLN_modulation.")
    narrows = True

    def __init__(self, config: DiTConfig) -> None:
        super().__init__(Rope(config.model_length, config.hidden_dim // config.n_heads, ROPE_BASE))
        self.config = config
        self.classes = config.num_classes
        self.vocab_embed = TokenEmbedding(config.vocab_size, config.hidden_dim)
        self.sigma_map = TimeEmbedding(config.cond_dim)
        self.y_embedder = None
        if config.num_classes:
            self.y_embedder = LabelEmbedding(config.num_classes, config.cond_dim)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.n_blocks))
        self.output_layer = OutputLayer(config)
        self.register_buffer("folded", None, persistent=False)
        self.folded: Tensor | None

    def derived(self) -> dict[str, Tensor]:
        """See ``CheckpointModule``: the rotary frequencies."""
        return {INV_FREQ: self.rope.frequencies(torch.device("cpu"))}

    def ready(self, device: torch.device) -> None:
        """See ``CheckpointModule``."""
        super().ready(device)
        self.fold()

    def modulations(self) -> Tensor:
        """Vectors of all norms and gates for each label, the null label last, [classes + 1,
        6 n_blocks + 2, D]; a text has one condition.
        """
        condition = conditions(self.sigma_map, self.y_embedder)
        layers: list[Any] = [*self.blocks, self.output_layer]
        of_all = torch.cat([layer.modulation(condition) for layer in layers], -2)
        return of_all[: self.classes + 1]

    @torch.no_grad()
    def fold(self) -> None:
        """Compute the modulation once and for all, and drop the weights that it took.

        In float64: what the network multiplies everything with is then right to the last bit.
        """
        for name, parameter in self.named_parameters():
            if any(part in name for part in self.wide):
                parameter.data = parameter.double()
        self.folded = self.modulations().float()
        del self.sigma_map, self.y_embedder
        layers: list[Any] = [*self.blocks, self.output_layer]
        for layer in layers:
            layer.fold()

    @property
    def cache_shape(self) -> CacheShape:
        """See ``DenoiserModule``."""
        c = self.config
        return CacheShape(c.n_blocks, c.n_heads, self.head_dim)

    def hidden(
        self,
        tokens: Tensor,
        attention: Attention,
        rows: Tensor | None = None,
        labels: Tensor | None = None,
    ) -> Tensor:
        """See ``Transformer``; behind the last modulated norm."""
        vectors = self.modulations() if self.folded is None else self.folded
        *of_blocks, of_output = vectors.split([6] * self.config.n_blocks + [2], -2)
        h = self.vocab_embed(tokens).float()
        cos, sin = self.cos[attention.positions], self.sin[attention.positions]
        *blocks, last = zip(self.blocks, of_blocks, strict=True)
        pending = None
        for block, mine in blocks:
            h, pending = block(h, pending, mine, labels, attention, cos, sin, None)
        h, pending = last[0](h, pending, last[1], labels, attention, cos, sin, rows)
        if rows is not None and labels is not None:
            labels = labels[rows]
        gain, shift = _chosen(of_output, labels)
        return add_modulate(h, pending, gain, shift, self.output_layer.linear.weight.dtype)[1]

    def head(self, hidden: Tensor) -> Tensor:
        """Hidden rows [R, D] -> logits [R, vocab_size]."""
        return self.output_layer.linear(hidden)


def parameter_names(n_blocks: int, with_labels: bool = False) -> list[str]:
    """Names of a DiT's parameters, in the order in which they are registered."""
    least = DiTConfig(1, 1, 2, 1, 1, 1, 0, 0)
    with without_values():
        network = DiT(replace(least, n_blocks=n_blocks, num_classes=int(with_labels)))
    return [name for name, _ in network.named_parameters()]


def _listed(count: int) -> list[str] | None:
    blocks, rest = divmod(count - OF_NETWORK, OF_BLOCK)
    return None if rest > 1 or blocks < 1 else parameter_names(blocks, with_labels=bool(rest))


def _matches(config: Fields) -> bool:
    return config.get("model_type") in TYPES or config.keys() >= set(TOLD_BY)


def _read(raw: Fields, shapes: Shapes | None) -> DiTConfig:
    return DiTConfig.from_dict(raw, None if shapes is None else stored_sizes(shapes))


FAMILY = FamilySpec(
    name="dit",
    title="DiT",
    described_by=TOLD_BY,
    matches=_matches,
    read_config=_read,
    build=DiT,
    sign=frozenset({"vocab_embed.embedding", "sigma_map.mlp.0.weight"}),
    shapes=DIT_SHAPES,
    guessed_config=guessed_fields,
    written_config=DiTConfig.to_dict,
    listed=_listed,
    list_lengths="a DiT has 10, one more for labels if it takes them, and 10 in each block",
    unlisted=(INV_FREQ,),
)
