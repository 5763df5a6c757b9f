"""Dream against its official code: logits, decoding, and the published sizes."""

from __future__ import annotations

import json

import pytest
import torch

from models.checkpoints.convert import convert
from models.checkpoints.load import (
    inspect_checkpoint,
    load_checkpoint,
    load_divided_checkpoint,
    load_network,
)
from models.errors import CheckpointError
from models.families.dream import FAMILY, SHAPES
from models.parallel.workers import Leader
from sampler import SAMPLERS, make_params
from sampler.samplers.dream import DreamParams
from server.engine.request_params import sampling_params
from tests.conftest import load_golden
from tests.sampler.toy import states
from tests.support.published import (
    close,
    manifest,
    run,
    same_bits_in_company,
    stored_shapes,
    write_folder,
)
from tests.support.ranks import unexpected


@pytest.fixture(scope="module")
def tiny(golden):
    return golden("families/dream_tiny")


@pytest.fixture(scope="module")
def folder(tiny, tmp_path_factory):
    return write_folder(tmp_path_factory.mktemp("dream") / "dream", tiny)


def test_logits_are_the_official_ones_of_the_position_before(folder, tiny):
    network, t = load_network(folder), tiny.tensors
    for found, raw in zip(run(network, *t["input_ids"]), t["logits"], strict=True):
        close(found[1:], raw[:-1])
        close(found[0], raw[0])


def test_left_padding_is_a_shorter_sequence(folder, tiny):
    network, t = load_network(folder), tiny.tensors
    visible = t["attention_mask"].bool()
    real = [ids[mask] for ids, mask in zip(t["input_ids"], visible, strict=True)]
    for row, found in enumerate(run(network, *real)):
        close(found[1:], t["logits_leftpad"][row][visible[row]][:-1])


def test_bfloat16_stays_close(folder, tiny):
    network, t = load_network(folder).to(torch.bfloat16), tiny.tensors
    network.ready(torch.device("cpu"))
    for found, raw in zip(run(network, *t["input_ids"]), t["logits_bf16"], strict=True):
        assert (found[1:].float() - raw[:-1].float()).abs().max() < 0.3


def test_a_sequence_has_the_same_bits_in_any_company(tmp_path):
    same_bits_in_company(tmp_path / "random", "dream")


def official_runs() -> list:
    """Runs at temperature 0 whose result does not hang on the mask's own probability."""
    cases = load_golden("families/dream_gen").meta["cases"].items()
    usable = {
        name: case
        for name, case in cases
        if case["temperature"] == 0 and case["alg"] != "origin" and case.get("suppress_mask", True)
    }
    return [pytest.param(name, id=f"{name} {case['alg']}") for name, case in usable.items()]


@pytest.mark.parametrize("name", official_runs())
def test_official_runs_state_by_state(folder, name):
    file, model = load_golden("families/dream_gen"), load_checkpoint(folder).model
    case = file.meta["cases"][name]
    chosen = {"sampler": "dream", "steps": case["steps"], "eps": case.get("eps", 1e-3)}
    if case["alg"] == "confidence_threshold":
        share = case["gen_length"] // case["steps"]
        chosen = {"sampler": "threshold", "steps": case["gen_length"], "masks_per_step": share}
        chosen["confidence_threshold"] = case["threshold"]
    else:
        chosen["alg"] = case["alg"]
    params = make_params(temperature=0.0, **chosen)
    sampler = SAMPLERS[chosen["sampler"]].make(64, 62, (60,))
    pads = case.get("pads", [0] * case["batch"])
    expected = file.tensors[f"{name}.x_traj"]
    for row, (pad, prompt) in enumerate(zip(pads, file.tensors[f"{name}.prompt"], strict=True)):
        given = prompt[pad:].tolist()
        editable = [*(i == 62 for i in given), *[True] * case["gen_length"]]
        canvas = [*given, *[62] * case["gen_length"]], editable, params
        found, known = states(model, sampler, canvas), expected[:, row, pad:].tolist()
        assert found[: len(known)] == known
        assert all(state == known[-1] for state in found[len(known) :])


@pytest.mark.slow
def test_two_processes_give_the_logits_of_one(folder, tiny):
    divided = load_divided_checkpoint(folder, 2, unexpected)
    assert isinstance(divided.model, Leader)
    try:
        ids = tiny.tensors["input_ids"]
        offsets = torch.tensor([0, 20, 40, 60])
        with torch.inference_mode():
            found = divided.model.head(divided.model.trunk(ids.flatten(), offsets))
        close(found, torch.cat(run(load_network(folder), *ids)))
    finally:
        divided.model.close()


def test_the_published_size_has_the_published_tensors():
    known = manifest("dream_v0_instruct_7b")
    expected = {name: shape for name, (shape, _) in known["state_dict"].items()}
    assert stored_shapes(known["config"]) == expected
    ours = {"model_type": "Dream", **FAMILY.random_config, **SHAPES["dream-7b"]}
    assert stored_shapes(ours) == expected


def test_facts(folder):
    info, defaults = inspect_checkpoint(folder)
    assert (info.family, info.mask_id, info.eos_id, info.max_length) == ("dream", 62, 60, 256)
    assert defaults["sampler"] == "dream" and defaults["mixing_ratio"] == 0.0


PUBLISHED_DEFAULTS = {
    **{"alg": "origin", "alg_temp": None, "eps": 0.001, "steps": 512, "temperature": 0.0},
    **{"top_p": None, "top_k": None, "mask_token_id": None, "output_history": False},
    **{"bos_token_id": 60, "eos_token_id": 60, "pad_token_id": 60},
}


def test_nulls_of_the_published_defaults_count_as_missing(tiny, tmp_path):
    folder = write_folder(tmp_path / "dream", tiny)
    (folder / "generation_config.json").write_text(json.dumps(PUBLISHED_DEFAULTS))
    for place in (folder, tmp_path / "made"):
        _, defaults = inspect_checkpoint(place if place.exists() else convert_to(folder, place))
        params = sampling_params(defaults, {"seed": 1})
        assert (params.sampler, params.steps, params.temperature) == ("dream", 512, 0.0)
        assert isinstance(params.own, DreamParams)
        assert params.own.alg == "origin" and params.own.alg_temp == 0.0
        assert params.top_p == 1.0 and defaults["mixing_ratio"] == 0.0


def convert_to(source, folder):
    convert(source, folder)
    return folder


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"rope_scaling": {"type": "linear"}}, "rope_scaling"),
        ({"use_sliding_window": True}, "use_sliding_window"),
        ({"hidden_act": "gelu"}, "hidden_act"),
        ({"mask_token_id": 64}, "mask_token_id = 64 lies outside the vocabulary of 64 ids"),
        ({"num_attention_heads": 5}, "hidden_size = 48 is not a multiple"),
        ({"num_key_value_heads": 4}, "num_attention_heads = 6 is not a multiple"),
        ({"num_hidden_layers": 10**9}, "num_hidden_layers"),
        ({"num_hidden_layers": 1000}, "num_hidden_layers is 1000: more than there are weights"),
        ({"hidden_size": True}, "hidden_size"),
        ({"rope_theta": "x"}, "rope_theta"),
        ({"tie_word_embeddings": 1}, "tie_word_embeddings"),
        ({"max_position_embeddings": 2**40}, "max_position_embeddings"),
        ({"num_attention_heads": 16}, "positions rotate 3 of head_dim = 3"),
        ({"rms_norm_eps": None}, "config.json lacks 'rms_norm_eps'"),
    ],
)
def test_a_config_that_is_not_built_is_refused_by_field(tiny, tmp_path, changes, words):
    with pytest.raises(CheckpointError, match=words):
        inspect_checkpoint(write_folder(tmp_path / "bad", tiny, **changes))
