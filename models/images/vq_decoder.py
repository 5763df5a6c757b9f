"""LlamaGen's decoder (arXiv:2406.06525): a grid of codes -> pixels.

A code is a row of a codebook. The grid of rows goes through a convolution net that doubles its side
at every level but the last. LlamaGen looks up rows of length 1; the published XDLM code looks up
the rows as they are stored. Both are one where stored rows have length 1.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.base import CheckpointModule
from models.errors import UnsupportedConfig

FILE = "vq.safetensors"
PARTS = ("decoder.", "post_quant_conv.", "quantize.embedding.")
"""Of a published tokenizer; the encoder is not needed."""
GROUPS, EPS = 32, 1e-6
TOLERANCE = 1e-3
AT_ONCE = 8  # images decoded together: the widest level of one takes 32 MiB


@dataclass(frozen=True)
class VQConfig:
    """Sizes of a decoder.

    Attributes:
        codes, width: of the codebook.
        latent: channels that enter the decoder.
        channels: of each level, the coarsest first.
        blocks: residual blocks of each level.
    """

    codes: int
    width: int
    latent: int
    channels: tuple[int, ...]
    blocks: int

    @classmethod
    def stored(cls, shapes: Mapping[str, Sequence[int]]) -> VQConfig:
        """Sizes of the decoder whose weights have these names and shapes.

        Raises:
            UnsupportedConfig: not a decoder of LlamaGen's.
        """
        book = tuple(shapes.get("quantize.embedding.weight", ()))
        entry = tuple(shapes.get("post_quant_conv.weight", ()))
        of_level: dict[int, int] = {}
        blocks = 0
        for name, shape in shapes.items():
            found = re.fullmatch(r"decoder\.conv_blocks\.(\d+)\.res\.(\d+)\.conv2\.weight", name)
            if found and len(shape) == 4:
                of_level[int(found[1])] = shape[0]
                blocks = max(blocks, int(found[2]) + 1)
        channels = tuple(of_level[level] for level in sorted(of_level))
        sizes = (*book, *entry, *channels)
        if len(book) != 2 or len(entry) != 4 or not channels or min(sizes) < 1:
            raise UnsupportedConfig("the weights are not a decoder of image tokens (quantize)")
        if any(c % GROUPS for c in channels) or len(channels) > 8 or blocks > 16:
            raise UnsupportedConfig(f"a decoder of {list(channels)} channels cannot be built")
        return cls(*book, entry[0], channels, blocks)

    @property
    def scale(self) -> int:
        """Pixels of a code's side."""
        return 2 ** (len(self.channels) - 1)


def _norm(width: int) -> nn.GroupNorm:
    return nn.GroupNorm(GROUPS, width, EPS)


class ResBlock(nn.Module):
    """x + conv2(silu(norm2(conv1(silu(norm1(x)))))), x by a 1 x 1 product where widths differ."""

    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        self.norm1, self.conv1 = _norm(before), nn.Conv2d(before, after, 3, padding=1)
        self.norm2, self.conv2 = _norm(after), nn.Conv2d(after, after, 3, padding=1)
        self.nin_shortcut = None if before == after else nn.Conv2d(before, after, 1)

    def forward(self, x: Tensor) -> Tensor:
        """[B, before, H, W] -> [B, after, H, W]."""
        h = self.conv1(F.silu(self.norm1(x)))
        h = self.conv2(F.silu(self.norm2(h)))
        return h + (x if self.nin_shortcut is None else self.nin_shortcut(x))


class AttnBlock(nn.Module):
    """x + attention of one head over all places."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = _norm(width)
        self.q, self.k, self.v, self.proj_out = (nn.Conv2d(width, width, 1) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] -> same."""
        y = self.norm(x)
        q, k, v = (part(y).flatten(2).transpose(1, 2) for part in (self.q, self.k, self.v))
        mixed = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).unflatten(2, x.shape[2:])
        return x + self.proj_out(mixed)


class Upsample(nn.Module):
    """Each place becomes four, then a convolution."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] -> [B, C, 2 H, 2 W]."""
        return self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))


class Level(nn.Module):
    """Residual blocks, each with attention at the coarsest level; finer levels follow all but the
    last.
    """

    def __init__(self, before: int, after: int, blocks: int, coarsest: bool, last: bool) -> None:
        super().__init__()
        widths = [before] + [after] * blocks
        self.res = nn.ModuleList(ResBlock(widths[i], after) for i in range(blocks))
        self.attn = nn.ModuleList(AttnBlock(after) for _ in range(blocks if coarsest else 0))
        self.upsample = None if last else Upsample(after)

    def forward(self, x: Tensor) -> Tensor:
        """[B, before, H, W] -> [B, after, H, W], or twice the side."""
        for i, block in enumerate(self.res):
            x = block(x)
            if len(self.attn):
                x = self.attn[i](x)
        return x if self.upsample is None else self.upsample(x)


class Decoder(nn.Module):
    """Latent grid -> image."""

    def __init__(self, c: VQConfig) -> None:
        super().__init__()
        top, last = c.channels[0], len(c.channels) - 1
        self.conv_in = nn.Conv2d(c.latent, top, 3, padding=1)
        self.mid = nn.Sequential(ResBlock(top, top), AttnBlock(top), ResBlock(top, top))
        widths = (top, *c.channels)
        self.conv_blocks = nn.Sequential(
            *(
                Level(widths[i], after, c.blocks, i == 0, i == last)
                for i, after in enumerate(c.channels)
            )
        )
        self.norm_out = _norm(c.channels[-1])
        self.conv_out = nn.Conv2d(c.channels[-1], 3, 3, padding=1)

    def forward(self, z: Tensor) -> Tensor:
        """[B, latent, h, w] -> [B, 3, H, W], about -1 to 1."""
        h = self.conv_blocks(self.mid(self.conv_in(z)))
        return self.conv_out(F.silu(self.norm_out(h)))


class Codebook(nn.Module):
    """Rows of codes."""

    def __init__(self, codes: int, width: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(codes, width)


class VQDecoder(CheckpointModule):
    """Codes -> pixels; fp32 whatever the network's type is.

    Attributes:
        config: sizes.
        raw_codebook: rows are looked up as they are stored, even if they have not length 1.
    """

    wide = ("",)

    def __init__(self, config: VQConfig, raw_codebook: bool = False) -> None:
        super().__init__()
        self.config, self.raw_codebook = config, raw_codebook
        self.quantize = Codebook(config.codes, config.width)
        self.post_quant_conv = nn.Conv2d(config.width, config.latent, 1)
        self.decoder = Decoder(config)

    def ready(self, device: torch.device) -> None:
        """Give all rows of the codebook length 1, and say so where they had not."""
        if self.raw_codebook:
            return
        table = self.quantize.embedding.weight
        away = float((table.norm(dim=-1) - 1.0).abs().max())
        if away > TOLERANCE:
            logging.getLogger(__name__).warning(
                "rows of the codebook are up to %.3g away from length 1: they are normalised; "
                "raw_codebook in config.json keeps them",
                away,
            )
            table.data = F.normalize(table.data, dim=-1)

    def image(self, ids: Tensor) -> Tensor:
        """Codes [B, h, w] -> images [B, 3, H, W], about -1 to 1. Ids past the codebook (the mask)
        count as its last row, as in the published code.
        """
        rows = self.quantize.embedding(ids.clamp(0, self.config.codes - 1))
        return self.decoder(self.post_quant_conv(rows.movedim(-1, 1)))

    @torch.inference_mode()
    def decode(self, ids: Tensor) -> Tensor:
        """Codes [B, h, w] -> pixels [B, H, W, 3], uint8; a few images at a time."""
        parts = [self.image(some) for some in ids.split(AT_ONCE)]
        values = (torch.cat(parts) + 1.0) * (255 / 2)
        return values.clamp(0, 255).to(torch.uint8).movedim(1, -1).contiguous()
