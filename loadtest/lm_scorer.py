"""Perplexity of answers under an independent left-to-right language model, read from a folder."""

from __future__ import annotations

from itertools import takewhile
from pathlib import Path
from typing import Any

import torch
from torch.nn.functional import cross_entropy
from transformers import AutoModelForCausalLM, AutoTokenizer


class Scorer:
    """A causal language model in Hugging Face's layout. Nothing is downloaded, no code of the
    folder is run, and only safetensors weights are read.

    Raises:
        OSError: the folder does not hold such a model.
    """

    def __init__(self, folder: Path) -> None:
        """Load the model in float32 on the CPU."""
        local: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
        self.name = folder.resolve().name
        self._tokenizer = AutoTokenizer.from_pretrained(folder, **local)
        self._model = AutoModelForCausalLM.from_pretrained(
            folder, dtype=torch.float32, use_safetensors=True, **local
        ).eval()

    @torch.inference_mode()
    def __call__(self, prompt: str, text: str) -> dict[str, Any]:
        """Negative log-likelihood in nats of ``text`` given ``prompt``, and its token count."""
        given = self._tokenizer(prompt)["input_ids"]
        whole = self._tokenizer(prompt + text)["input_ids"]
        both = zip(given, whole, strict=False)
        start = max(1, sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], both)))
        row: dict[str, Any] = {"scorer": self.name, "scorer_tokens": len(whole) - start}
        if len(whole) <= start:
            return {**row, "scorer_nats": 0.0}
        ids = torch.tensor([whole])
        logits = self._model(ids).logits[0, start - 1 : -1]
        nats = cross_entropy(logits.float(), ids[0, start:], reduction="sum")
        return {**row, "scorer_nats": float(nats)}
