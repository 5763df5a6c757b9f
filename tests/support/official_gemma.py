"""Transformers' DiffusionGemma with small random weights, whose runs are recorded."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from transformers import (
    DiffusionGemmaConfig,
    DiffusionGemmaForBlockDiffusion,
    LogitsProcessor,
    LogitsProcessorList,
)
from transformers.models.diffusion_gemma.generation_diffusion_gemma import EntropyBoundSampler

VOCAB = 96


class RecordedSampler(EntropyBoundSampler):
    """The official sampler, which keeps its random numbers and what it was given.

    Attributes:
        drawn: all uniform canvases, the first of each canvas and one for each step, in order.
        steps: of each step the canvas before it and the proposed tokens.
    """

    def __init__(self, *given: Any, **settings: Any) -> None:
        super().__init__(*given, **settings)
        self.drawn: list[Tensor] = []
        self.steps: list[dict[str, Tensor]] = []

    def initialize_canvas(self, batch_size: int, device: torch.device) -> Any:
        self.drawn.append(super().initialize_canvas(batch_size, device))
        return self.drawn[-1]

    def accept_canvas(
        self, current_canvas: Any, denoiser_canvas: Any, logits: Any, cur_step: Any
    ) -> Any:
        kept = {"current_canvas": current_canvas, "denoiser_canvas": denoiser_canvas}
        self.steps.append({n: t.clone() for n, t in kept.items()} | {"left": cur_step.clone()})
        return super().accept_canvas(current_canvas, denoiser_canvas, logits, cur_step)


class RecordedLogits(LogitsProcessor):
    """Keeps the logits of each step, before the temperature. In the first canvas after a prompt
    of ``size`` ids the positions of ``pins`` may be one id only.
    """

    def __init__(self, size: int, pins: Mapping[int, int]) -> None:
        self.raw: list[Tensor] = []
        self.size, self.pins = size, pins

    def __call__(self, input_ids: Any, scores: Any) -> Any:
        if input_ids.shape[1] == self.size:
            for at, id_ in self.pins.items():
                scores[:, at] = -1e4
                scores[:, at, id_] = 0
        self.raw.append(scores.clone())
        return scores


class OfficialGemma(DiffusionGemmaForBlockDiffusion):
    """The official network, whose sampler is recorded."""

    sampler: RecordedSampler

    @classmethod
    def small(cls, seed: int) -> OfficialGemma:
        """On a small random config, without images."""
        g = torch.Generator().manual_seed(seed)
        few, wide = 1 + seed % 2, 8 * (1 + seed % 3)
        text = {
            "vocab_size": VOCAB,
            "hidden_size": 32,
            "intermediate_size": 24,
            "moe_intermediate_size": 16,
            "num_hidden_layers": 3,
            "layer_types": ["sliding_attention", "full_attention", "full_attention"],
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "num_global_key_value_heads": few,
            "head_dim": 8,
            "global_head_dim": wide,
            "sliding_window": 5 + seed,
            "num_experts": 5,
            "top_k_experts": 2,
            "max_position_embeddings": 256,
            "use_bidirectional_attention": "vision",
        }
        vision = {
            "hidden_size": 16,
            "intermediate_size": 16,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "num_key_value_heads": 2,
            "head_dim": 8,
        }
        config = DiffusionGemmaConfig(
            text_config=text, vision_config=vision, canvas_length=8 + seed
        )
        network = cls(config).eval()
        with torch.no_grad():
            for name, tensor in network.state_dict().items():
                about = 1.0 if tensor.dim() == 1 else 0.0
                spread = 0.3 if about else 2.0 * tensor.shape[-1] ** -0.5
                tensor.copy_(about + spread * torch.randn(tensor.shape, generator=g))
                assert name
        return network

    def _prepare_sampler(self, generation_config: Any) -> RecordedSampler:
        self.sampler = RecordedSampler(
            config=generation_config.sampler_config,
            canvas_length=self.config.canvas_length,
            vocab_size=VOCAB,
            max_denoising_steps=generation_config.max_denoising_steps,
        )
        return self.sampler

    def run(
        self,
        prompt: Tensor,
        seed: int,
        draft: Tensor | None = None,
        pins: Mapping[int, int] | None = None,
        **settings: Any,
    ) -> dict[str, Tensor]:
        """A run of ``generate`` after one prompt, in the form of the golden files: a row for each
        step, [S, 1, ...], and for each canvas, [K, 1, C]. ``draft`` [C] is the first canvas at its
        beginning, ``pins`` its positions that keep an id.
        """
        if draft is not None:
            settings["decoder_input_ids"] = draft[None]
        torch.manual_seed(seed)
        ids: Any = prompt[None]
        logits = RecordedLogits(len(prompt), pins or {})
        made: Any = self.generate(ids, logits_processor=LogitsProcessorList([logits]), **settings)
        steps, drawn = self.sampler.steps, iter(self.sampler.drawn)
        begins = [int(s["left"]) == settings["max_denoising_steps"] for s in steps]
        initial, renoised = [], []
        for begin in begins:
            if begin:
                initial.append(next(drawn))
            renoised.append(next(drawn))
        of_canvas = torch.tensor(begins).long().cumsum(0) - 1
        if draft is not None:
            initial[0] = draft[None]
        written = made.sequences[:, len(prompt) :].unflatten(1, (-1, self.config.canvas_length))
        none = torch.zeros(len(steps), 1, dtype=torch.bool)
        return {
            "input_ids": ids,
            "init_canvas": torch.stack(initial),
            "committed": written.transpose(0, 1),
            "step_canvas": of_canvas,
            "cur_step": torch.stack([s["left"] for s in steps]),
            "raw_logits": torch.stack(logits.raw),
            "current_canvas": torch.stack([s["current_canvas"] for s in steps]),
            "denoiser_canvas": torch.stack([s["denoiser_canvas"] for s in steps]),
            "renoise_canvas": torch.stack(renoised),
            "argmax_canvas": torch.stack([r.argmax(-1) for r in logits.raw]),
            "finished_before": none,
            "finished_after": none,  # a row alone ends its canvas where the next begins
        }
