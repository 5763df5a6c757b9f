"""The text DiT of MDLM and XDLM, built natively from its sizes.

A transformer without a causal mask whose layer norms are modulated by a condition (adaLN): rotary
positions, one matrix for queries, keys and values, tanh-GELU, an output matrix of its own with a
bias. The published checkpoints were trained without time conditioning, so the condition is that of
time 0 and the same everywhere: it is worked out once, when the weights are loaded. Logits are not
shifted. Parameters have the published names and stand in the published order of registration, in
which unnamed lists of averaged weights are stored.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.attention import Attention
from models.network import MIN_ROWS, Network, Rope, UnsupportedConfig, rotate

TIME_FEATURES = 256
MLP_RATIO = 4
ROPE_BASE = 10_000.0
EPS = 1e-5
LABELS = "y_embedder.embedding_table.weight"
INV_FREQ = "rotary_emb.inv_freq"


class Vocabulary(NamedTuple):
    """What the published training runs did with a vocabulary."""

    mask: int
    end: int
    length: int


VOCABULARIES = {
    50258: Vocabulary(mask=50257, end=50256, length=1024),  # gpt2, the mask behind it
    30522: Vocabulary(mask=103, end=101, length=128),  # bert-base-uncased; texts end with [CLS]
}
"""By the number of ids."""


@dataclass(frozen=True)
class DiTConfig:
    """The fields of ``config.json`` that shape the network."""

    vocab_size: int
    model_length: int
    hidden_dim: int
    cond_dim: int
    n_blocks: int
    n_heads: int
    mask_token_id: int
    eos_token_id: int

    @classmethod
    def from_dict(
        cls, raw: Mapping[str, Any], stored: Mapping[str, int] | None = None
    ) -> DiTConfig:
        """Read a ``config.json``.

        Args:
            raw: its fields. The ids of the mask and of the end of a text may be missing where the
                vocabulary is gpt2's or bert's.
            stored: ``stored_sizes`` of the weights, if there are any. ``cond_dim`` is theirs: the
                published configs have it wrong.

        Raises:
            UnsupportedConfig: a field missing, not buildable, or other than the weights say. The
            message names it.
        """
        for field in ("time_conditioning", "causal_attention"):
            if raw.get(field):
                raise UnsupportedConfig(f"{field} = {raw[field]!r} is not supported, only false")
        fields = {**raw}
        if stored is not None:
            for field in ("vocab_size", "hidden_dim", "n_blocks"):
                if raw.get(field, stored[field]) != stored[field]:
                    raise UnsupportedConfig(
                        f"{field} is {raw[field]!r} in config.json, {stored[field]} in the weights"
                    )
            fields |= stored
        size = fields.get("vocab_size")
        if isinstance(size, int) and (known := VOCABULARIES.get(size)):
            usual = {"mask_token_id": known.mask, "eos_token_id": known.end}
            fields |= {name: id_ for name, id_ in usual.items() if raw.get(name) is None}
        try:
            config = cls(**{name: fields[name] for name in cls.__dataclass_fields__})
        except KeyError as missing:
            raise UnsupportedConfig(f"config.json lacks {missing}") from None
        config.check()
        return config

    def check(self) -> None:
        """Refuse shapes that cannot be built.

        Raises:
            UnsupportedConfig: naming the field.
        """
        for field, value in asdict(self).items():
            least = 0 if field.endswith("_id") else 1
            if not isinstance(value, int) or isinstance(value, bool) or value < least:
                kind = "an id" if least == 0 else "a positive integer"
                raise UnsupportedConfig(f"{field} must be {kind}, got {value!r}")
        if self.hidden_dim % self.n_heads or (self.hidden_dim // self.n_heads) % 2:
            raise UnsupportedConfig("hidden_dim must be an even multiple of n_heads")
        for field in ("mask_token_id", "eos_token_id"):
            if getattr(self, field) >= self.vocab_size:
                raise UnsupportedConfig(f"{field} lies outside the vocabulary")


def stored_sizes(shapes: Mapping[str, Sequence[int]]) -> dict[str, int]:
    """Sizes of the network whose weights have these names and shapes.

    Raises:
        UnsupportedConfig: not a text DiT.
    """
    if LABELS in shapes:
        raise UnsupportedConfig(f"class-conditional checkpoints ({LABELS}) are not supported yet")
    table = shapes.get("vocab_embed.embedding", ())
    times = shapes.get("sigma_map.mlp.0.weight", ())
    if len(table) != 2 or len(times) != 2 or times[1] != TIME_FEATURES:
        raise UnsupportedConfig("the weights are not a DiT's (vocab_embed, sigma_map)")
    blocks = {found[0] for name in shapes if (found := re.match(r"blocks\.\d+\.", name))}
    return {
        "vocab_size": table[0],
        "hidden_dim": table[1],
        "cond_dim": times[0],
        "n_blocks": len(blocks),
    }


class TokenEmbedding(nn.Module):
    """Rows of a table [N, D]; the published name has no ``weight`` in it."""

    def __init__(self, count: int, width: int) -> None:
        super().__init__()
        self.embedding = nn.Parameter(0.02 * torch.randn(count, width))

    def forward(self, tokens: Tensor) -> Tensor:
        """[T] -> [T, D]."""
        return F.embedding(tokens, self.embedding)


class TimeEmbedding(nn.Module):
    """A small network over sinusoids of the time."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.mlp = nn.Sequential(
            nn.Linear(TIME_FEATURES, width), nn.SiLU(), nn.Linear(width, width)
        )

    def at_zero(self) -> Tensor:
        """The embedding of time 0, [MIN_ROWS, width]: all cosines are 1, all sines 0.

        The rows are equal; of one alone CPU libraries make a product whose rounding depends on
        where the weights lie in memory.
        """
        first: Any = self.mlp[0]
        features = first.weight.new_zeros(MIN_ROWS, TIME_FEATURES)
        features[:, : TIME_FEATURES // 2] = 1.0
        return self.mlp(features)


def _norm(width: int) -> nn.LayerNorm:
    return nn.LayerNorm(width, eps=EPS, bias=False)


def _modulated(h: Tensor, gain: Tensor, shift: Tensor) -> Tensor:
    """LN(h) * gain + shift in fp32."""
    return F.layer_norm(h, h.shape[-1:], gain, shift, EPS)


class Block(nn.Module):
    """h += g1 Wo attn(LN1(h)); h += g2 W2 gelu(W1 LN2(h)); norms and gates g by the condition."""

    def __init__(self, c: DiTConfig) -> None:
        super().__init__()
        d = c.hidden_dim
        self.heads = c.n_heads
        self.norm1 = _norm(d)
        self.attn_qkv = nn.Linear(d, 3 * d, bias=False)
        self.attn_out = nn.Linear(d, d, bias=False)
        self.norm2 = _norm(d)
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
        modulation: Tensor,
        attention: Attention,
        cos: Tensor,
        sin: Tensor,
        rows: Tensor | None,
    ) -> Tensor:
        """H [T, D] in fp32, modulation [6, D] -> same as h, or [R, D] if only some rows are asked
        for.
        """
        gain1, shift1, gate1, gain2, shift2, gate2 = modulation.unbind()
        kind = self.attn_qkv.weight.dtype
        y = _modulated(h, gain1, shift1).to(kind)
        q, k, v = self.attn_qkv(y).unflatten(-1, (3, self.heads, -1)).unbind(1)
        mixed = attention(rotate(q, cos, sin), rotate(k, cos, sin), v).flatten(1)
        if rows is not None:
            h, mixed = h[rows], mixed[rows]
        h = torch.addcmul(h, gate1, self.attn_out(mixed).to(h.dtype))
        y = self.mlp(_modulated(h, gain2, shift2).to(kind))
        return torch.addcmul(h, gate2, y.to(h.dtype))


class OutputLayer(nn.Module):
    """The last modulated norm, and the matrix to logits."""

    def __init__(self, c: DiTConfig) -> None:
        super().__init__()
        self.norm_final = _norm(c.hidden_dim)
        self.linear = nn.Linear(c.hidden_dim, c.vocab_size)
        self.adaLN_modulation = nn.Linear(c.cond_dim, 2 * c.hidden_dim)

    def modulation(self, condition: Tensor) -> Tensor:
        """Conditions [C, cond_dim] -> [C, 2, D]: gain and shift."""
        shift, scale = self.adaLN_modulation(condition).unflatten(-1, (2, -1)).unbind(-2)
        return torch.stack((self.norm_final.weight * (1 + scale), shift), -2)

    def fold(self) -> None:
        """Drop what only ``modulation`` needs."""
        del self.norm_final, self.adaLN_modulation


class DiT(Network):
    """A ``Denoiser``. The last modulated norm belongs to ``trunk``, so ``head`` is one product.

    The residual stream, the norms and their modulation are fp32 whatever the weights are.
    """

    family = "dit"
    wide = ("sigma_map.", "norm", "adaLN_modulation.")

    def __init__(self, config: DiTConfig) -> None:
        super().__init__(Rope(config.model_length, config.hidden_dim // config.n_heads, ROPE_BASE))
        self.config = config
        self.vocab_embed = TokenEmbedding(config.vocab_size, config.hidden_dim)
        self.sigma_map = TimeEmbedding(config.cond_dim)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.n_blocks))
        self.output_layer = OutputLayer(config)
        self.register_buffer("folded", None, persistent=False)
        self.folded: Tensor | None

    def derived(self) -> dict[str, Tensor]:
        """See ``Network``: the rotary frequencies."""
        return {INV_FREQ: self.rope.frequencies(torch.device("cpu"))}

    def ready(self, device: torch.device) -> None:
        """See ``Network``."""
        super().ready(device)
        self.fold()

    def modulations(self) -> Tensor:
        """Vectors of all norms and gates for each condition, [1, 6 n_blocks + 2, D]; a text has one
        condition.
        """
        condition = F.silu(self.sigma_map.at_zero())
        layers: list[Any] = [*self.blocks, self.output_layer]
        return torch.cat([layer.modulation(condition) for layer in layers], -2)[:1]

    @torch.no_grad()
    def fold(self) -> None:
        """Compute the modulation once and for all, and drop the weights that it took."""
        self.folded = self.modulations()
        del self.sigma_map
        layers: list[Any] = [*self.blocks, self.output_layer]
        for layer in layers:
            layer.fold()

    def hidden(self, tokens: Tensor, attention: Attention, rows: Tensor | None = None) -> Tensor:
        """See ``Network``; behind the last modulated norm."""
        (vectors,) = self.modulations() if self.folded is None else self.folded
        *of_blocks, of_output = vectors.split([6] * self.config.n_blocks + [2])
        h = self.vocab_embed(tokens).float()
        cos, sin = self.cos[attention.positions], self.sin[attention.positions]
        last = len(self.blocks) - 1
        for i, (block, modulation) in enumerate(zip(self.blocks, of_blocks, strict=True)):
            h = block(h, modulation, attention, cos, sin, rows if i == last else None)
        return _modulated(h, *of_output).to(self.output_layer.linear.weight.dtype)

    def head(self, hidden: Tensor) -> Tensor:
        """Hidden rows [R, D] -> logits [R, vocab_size]."""
        return self.output_layer.linear(hidden)


def parameter_names(n_blocks: int) -> list[str]:
    """Names of a text DiT's parameters, in the order in which they are registered."""
    least = DiTConfig(1, 1, 2, 1, 1, 1, 0, 0)
    with torch.device("meta"):
        network = DiT(replace(least, n_blocks=n_blocks))
    return [name for name, _ in network.named_parameters()]
