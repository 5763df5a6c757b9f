"""Settings of published checkpoints: below their own files, above those of the family."""

from __future__ import annotations

import json
import re
import shutil

import pytest
import torch

from models.checkpoints.load import inspect_checkpoint, load_checkpoint
from models.hub.recipes import recipes
from sampler import SAMPLERS
from sampler.batch import CanvasBatch
from sampler.step import take_step
from server.engine.request_params import ModelKind, check_defaults, sampling_params
from tests.support.paths import ROOT
from tests.support.serving import write_tiny


@pytest.fixture
def snapshot(tmp_path):
    """``snapshot(name)``: a tiny checkpoint where the cache has a repository, without defaults."""

    def made(name: str):
        place = tmp_path / f"models--{name.replace('/', '--')}" / "snapshots" / ("a" * 40)
        shutil.copytree(write_tiny(tmp_path / "tiny"), place)
        (place / "generation_config.json").unlink()
        return place

    return made


def test_every_recipe_is_valid_and_has_a_source():
    for name, recipe in recipes().items():
        canvases = recipe.defaults.get("sampler") == "entropy_bound"
        check_defaults(recipe.defaults, ModelKind(not canvases, on_canvases=canvases))
        assert name.count("/") == 1 and len(recipe.source) > 10 and recipe.defaults


def test_the_table_of_the_quickstart_has_every_recipe_with_its_sampler():
    page = (ROOT / "docs" / "quickstart-gpu.md").read_text()
    rows = [line.split("|")[1:3] for line in page.splitlines() if line.startswith("| `")]
    told = {name: sampler for names, sampler in rows for name in re.findall(r"`(\S+/\S+)`", names)}
    assert told.keys() == recipes().keys()
    for name, recipe in recipes().items():
        assert f"`{recipe.defaults['sampler']}`" in told[name], name


def test_a_recipe_is_above_the_family_and_below_the_folder(snapshot):
    place = snapshot("Mzero17/LLaDA-XDLM")
    info, defaults = inspect_checkpoint(place)
    assert info.name == "Mzero17/LLaDA-XDLM"
    assert (defaults["mixing_ratio"], defaults["steps"]) == (0.1, 32)
    assert defaults["noise_schedule"] == "llada"  # of the family
    (place / "generation_config.json").write_text(json.dumps({"steps": 7, "temperature": None}))
    _, defaults = inspect_checkpoint(place)
    assert (defaults["steps"], defaults["temperature"]) == (7, 0.0)


def test_a_folder_of_another_name_has_no_recipe(snapshot):
    _, defaults = inspect_checkpoint(snapshot("someone/LLaDA-XDLM"))
    assert defaults["mixing_ratio"] == 0.0 and "steps" not in defaults


def test_a_recipe_takes_canvases_of_any_length(snapshot):
    loaded = load_checkpoint(snapshot("GSAI-ML/LLaDA-8B-Instruct"))
    params = sampling_params(loaded.defaults, {})
    sampler = SAMPLERS["topk"].make(loaded.info.vocab_size, loaded.info.mask_id, loaded.ends)
    canvases = [([0] * n, [True] * n, params) for n in (1, 20, 32, 50)]
    batch = sampler.begin(CanvasBatch.of(canvases, torch.device("cpu")))
    assert take_step(sampler, loaded.model, batch).batch is not None
