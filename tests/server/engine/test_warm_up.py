"""The pass before the first request, with a network of every family."""

from __future__ import annotations

import pytest
import torch

from models.bundled import BUNDLED
from models.checkpoints.load import load_checkpoint
from models.checkpoints.random_init import parse_shape, write_random
from models.registry import FAMILIES
from server.engine.factory import check_servable, warm_up

STORIES = BUNDLED / "stories"


@pytest.mark.parametrize("family", sorted(set(FAMILIES) - {"unet"}))
def test_warming_up_a_network_of_any_family_ends(tmp_path, family):
    shape = parse_shape("tiny", family, STORIES)
    write_random(tmp_path, shape, family=family, dtype=torch.float32, tokenizer=STORIES)
    warm_up(check_servable(load_checkpoint(tmp_path)))
