"""The bundled ``digits`` says what its card says."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from models.checkpoints.load import find_checkpoint, load_checkpoint
from sampler import SAMPLERS
from sampler.batch import CanvasBatch
from sampler.step import take_step
from server.engine.request_params import sampling_params

RUNS = 6


@pytest.mark.slow
def test_digits_of_one_class_look_alike_and_of_two_do_not():
    """Without a judge: each drawn digit is nearest to the mean of its own class's others."""
    loaded = load_checkpoint(find_checkpoint("digits"))
    labels, chosen = [0, 1, 3, 6, 7] * RUNS, {"steps": 8, "guidance_scale": 2.0}
    canvases = []
    for seed, label in enumerate(labels):
        own = {**chosen, "class_label": label, "seed": seed}
        canvases.append(([0] * 144, [True] * 144, sampling_params(loaded.defaults, own)))
    sampler = SAMPLERS["ancestral"].make(loaded.info.vocab_size, loaded.info.mask_id, loaded.ends)
    batch = sampler.begin(CanvasBatch.of(canvases))
    for _ in range(9):
        batch = take_step(sampler, loaded.model, batch).batch
    assert int((batch.tokens == loaded.info.mask_id).sum()) == 0
    pixels = loaded.pixels(batch.tokens.view(-1, 144)).numpy().reshape(-1, 144).astype(float)
    of = np.array(labels)
    right = 0
    for i, image in enumerate(pixels):
        others = np.arange(len(of)) != i
        means = {c: pixels[others & (of == c)].mean(0) for c in set(labels)}
        right += min(means, key=lambda c: ((image - means[c]) ** 2).sum()) == of[i]
    assert right >= 25 * RUNS // 6
    assert torch.unique(batch.tokens).numel() > 4
