"""The U-Net of the CIFAR-10 models (arXiv:2006.11239): an image's bytes as tokens, a discretised
logistic as output (D3PM, arXiv:2107.03006, appendix B.6).

Tokens are bytes of the red, then the green, then the blue plane. The trunk gives each position the
mean and log scale of a logistic over [-1, 1]; the head cuts that into as many equal bins as there
are ids, so logits exist only for the rows that are asked about. Convolutions and norms run in fp32.
Parameters have the published names and order. The published checkpoints were trained without time
conditioning, so the time is always 0.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.base import MIN_ROWS, DenoiserModule, pad_rows
from models.cache import Segments
from models.checkpoints.meta_init import without_values
from models.families.unet_config import UNET_SHAPES, UNetConfig
from models.family import FamilySpec

EPS = 1e-6
EMBEDDING = 4  # widths of the time and label embedding, in units of ``ch``
BIN_EPS = 1e-6  # inside the logarithm of a bin's mass
SCALE_SHIFT = 2.0


class NIN(nn.Module):
    """A product with the channels of each place."""

    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        self.W = nn.Parameter(torch.empty(before, after))
        nn.init.normal_(self.W, std=1 / math.sqrt(before))
        self.b = nn.Parameter(torch.zeros(after))

    def forward(self, x: Tensor) -> Tensor:
        """[B, before, H, W] -> [B, after, H, W]."""
        return F.conv2d(x, self.W.T[:, :, None, None], self.b)


def _norm(width: int) -> nn.GroupNorm:
    return nn.GroupNorm(min(width // 4, 32), width, EPS)


class ResBlock(nn.Module):
    """Two convolutions beside the input, the embedding added between them; over sqrt 2."""

    def __init__(self, before: int, after: int, embedding: int) -> None:
        super().__init__()
        self.groupnorm0, self.conv0 = _norm(before), nn.Conv2d(before, after, 3, padding=1)
        self.dense0 = nn.Linear(embedding, after)
        self.groupnorm1, self.conv1 = _norm(after), nn.Conv2d(after, after, 3, padding=1)
        self.nin = None if before == after else NIN(before, after)

    def forward(self, x: Tensor, embeddings: Tensor, labels: Tensor) -> Tensor:
        """X [B, before, H, W], embeddings of all labels [C, E], labels [B] -> [B, after, H, W]."""
        h = self.conv0(F.silu(self.groupnorm0(x)))
        h = h + self.dense0(embeddings)[labels][:, :, None, None]
        h = self.conv1(F.silu(self.groupnorm1(h)))
        return (h + (x if self.nin is None else self.nin(x))) / math.sqrt(2)


class AttnBlock(nn.Module):
    """Attention of one head over all places beside the input; over sqrt 2."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.GroupNorm_0 = _norm(width)
        self.NIN_0, self.NIN_1, self.NIN_2, self.NIN_3 = (NIN(width, width) for _ in range(4))

    def forward(self, x: Tensor, _embeddings: Tensor, _labels: Tensor) -> Tensor:
        """[B, C, H, W] -> same."""
        y = self.GroupNorm_0(x)
        q, k, v = (part(y).flatten(2).mT for part in (self.NIN_0, self.NIN_1, self.NIN_2))
        mixed = F.scaled_dot_product_attention(q, k, v).mT.unflatten(2, x.shape[2:])
        return (x + self.NIN_3(mixed)) / math.sqrt(2)


class Downsample(nn.Module):
    """Half the side."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, stride=2)

    def forward(self, x: Tensor, _embeddings: Tensor, _labels: Tensor) -> Tensor:
        """[B, C, H, W] -> [B, C, H / 2, W / 2]."""
        return self.conv(F.pad(x, (0, 1, 0, 1)))


class Upsample(nn.Module):
    """Twice the side."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: Tensor, _embeddings: Tensor, _labels: Tensor) -> Tensor:
        """[B, C, H, W] -> [B, C, 2 H, 2 W]."""
        return self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))


class Labels(nn.Module):
    """A row for each class, one that nothing uses, and one for no class."""

    def __init__(self, classes: int, width: int) -> None:
        super().__init__()
        self.embedding_table = nn.Embedding(classes + 2, width)


class UNet(DenoiserModule):
    """A ``Denoiser`` whose hidden states are (mean, log scale)."""

    wide = ("",)

    def __init__(self, config: UNetConfig) -> None:
        super().__init__()
        self.config, self.classes = config, config.num_classes
        ch, width = config.ch, EMBEDDING * config.ch
        scales, blocks = len(config.ch_mult), config.num_res_blocks
        self.temb_modules = nn.ModuleList([nn.Linear(ch, width), nn.Linear(width, width)])
        self.input_conv = nn.Conv2d(config.image.channels, ch, 3, padding=1)

        down: list[nn.Module] = []
        kept, now = [ch], ch  # widths of what the way up looks at again
        for scale, mult in enumerate(config.ch_mult):
            for _ in range(blocks):
                down.append(ResBlock(now, mult * ch, width))
                now = mult * ch
                if scale == config.attention_scale:
                    down.append(AttnBlock(now))
                kept.append(now)
            if scale != scales - 1:
                down.append(Downsample(now))
                kept.append(now)
        self.downsampling_modules = nn.ModuleList(down)

        self.middle_modules = nn.ModuleList(
            [ResBlock(now, now, width), AttnBlock(now), ResBlock(now, now, width)]
        )
        up: list[nn.Module] = []
        for scale, mult in reversed(list(enumerate(config.ch_mult))):
            for _ in range(blocks + 1):
                up.append(ResBlock(now + kept.pop(), mult * ch, width))
                now = mult * ch
                if scale == config.attention_scale:
                    up.append(AttnBlock(now))
            if scale != 0:
                up.append(Upsample(now))
        self.upsampling_modules = nn.ModuleList(up)
        out = nn.Conv2d(now, 2 * config.image.channels, 3, padding=1)
        self.output_modules = nn.ModuleList([_norm(now), out])
        self.cond_map = Labels(config.num_classes, width)

    @property
    def max_length(self) -> int:
        """See ``DenoiserModule``; canvases have no other length."""
        return self.config.image.length

    def embeddings(self) -> Tensor:
        """Embeddings of time 0 and of each label, the null label behind the classes: [C, E].

        Zero rows make up MIN_ROWS: products of fewer rows are rounded in another way.
        """
        first, second = self.temb_modules
        assert isinstance(first, nn.Linear)
        half = self.config.ch // 2  # sines of 0, then cosines
        at_zero = first.weight.new_zeros(MIN_ROWS, self.config.ch)
        at_zero[:, half:] = 1.0
        table = self.cond_map.embedding_table.weight
        rows = torch.cat((table[: self.classes], table[-1:]))
        return F.silu(second(F.silu(first(at_zero)))[:1] + pad_rows(rows))

    def trunk(
        self,
        tokens: Tensor,
        offsets: Tensor,
        rows: Tensor | None = None,
        labels: Tensor | None = None,
        segments: Segments | None = None,
    ) -> Tensor:
        """See ``Denoiser``: [R, 2], mean and log scale.

        Raises:
            ValueError: canvases that are no images, or parts of canvases.
        """
        if segments is not None:
            raise ValueError("this network keeps no keys and values")
        shape, count = self.config.image, len(offsets) - 1
        if tokens.numel() != count * shape.length:
            raise ValueError(f"canvases must have {shape.length} tokens each")
        if labels is None:
            labels = torch.full_like(offsets[1:], self.classes, device=tokens.device)
        x = 2.0 * tokens.float() / self.config.vocab_size - 1.0
        x = x.view(count, shape.channels, shape.height, shape.width)
        # CPU libraries convolve one image alone with other rounding, so it gets a companion
        alone = 1 if count == 1 and not x.is_cuda else 0
        padded = F.pad(x, (0, 0, 0, 0, 0, 0, 0, alone))
        h = self._run(padded, self.embeddings(), F.pad(labels, (0, alone)))[:count]
        mean, log_scale = h.chunk(2, 1)
        hidden = torch.stack(((x + mean).tanh().flatten(), log_scale.flatten()), -1)
        return hidden if rows is None else hidden[rows]

    def _run(self, x: Tensor, embeddings: Tensor, labels: Tensor) -> Tensor:
        h = self.input_conv(x)
        kept = [h]
        modules = list(self.downsampling_modules)
        for module, following in zip(modules, [*modules[1:], None], strict=True):
            h = module(h, embeddings, labels)
            if not isinstance(following, AttnBlock):
                kept.append(h)
        for module in self.middle_modules:
            h = module(h, embeddings, labels)
        for module in self.upsampling_modules:
            if isinstance(module, ResBlock):
                h = torch.cat((h, kept.pop()), 1)
            h = module(h, embeddings, labels)
        norm, conv = self.output_modules
        return conv(F.silu(norm(h)))

    def head(self, hidden: Tensor) -> Tensor:
        """(mean, log scale) [R, 2] -> logits [R, vocab_size]: log mass of the bins that cut [-1, 1]
        into equal parts.
        """
        size = self.config.vocab_size
        mean, log_scale = hidden[:, :1], hidden[:, 1:]
        edges = torch.arange(size + 1, device=hidden.device) * (2.0 / size) - 1.0
        below = F.logsigmoid((edges - mean) * torch.exp(SCALE_SHIFT - log_scale))
        left, right = below[:, :-1], below[:, 1:]
        return right + torch.log1p(BIN_EPS - torch.exp(left - right))


def parameter_names() -> list[str]:
    """Names of the published network's parameters, in the order in which they are registered."""
    with without_values():
        network: Any = UNet(UNetConfig.from_dict({}))
    return [name for name, _ in network.named_parameters()]


PARAMETERS = 329
"""Of the published network."""
FAMILY = FamilySpec(
    name="unet",
    title="U-Net",
    matches=lambda config: config.get("model_type") == "unet",
    read_config=lambda raw, shapes: UNetConfig.from_dict(raw),
    build=UNet,
    sign=frozenset({"input_conv.weight"}),
    shapes=UNET_SHAPES,
    written_config=UNetConfig.to_dict,
    listed=lambda count: parameter_names() if count == PARAMETERS else None,
    list_lengths=f"the U-Net {PARAMETERS}",
)
