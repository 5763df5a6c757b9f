"""LoRA adapters: peft's merged weights (tests/golden/lora_*), and a refusal of each other kind."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from models.base import DenoiserModule
from models.checkpoints.convert import convert
from models.checkpoints.inspection import check_checkpoint
from models.checkpoints.load import Checkpoint, load_checkpoint
from models.checkpoints.random_init import parse_shape, write_random
from models.errors import CheckpointError
from server.config import ConfigError, Settings
from tests.support.http import call, post
from tests.support.paths import GOLDEN
from tests.support.processes import xdlm
from tests.support.serving import make_engine, run_server, settings_of, write_tiny

Q = "model.transformer.blocks.0.q_proj"
HEAD = "base_model.model."
CONFIG = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "bias": "none"}


def write_adapter(folder: Path, tensors: dict[str, torch.Tensor], **config) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "adapter_config.json").write_text(json.dumps(CONFIG | config))
    save_file(tensors, folder / "adapter_model.safetensors")
    return folder


def pair(module: str = Q, rank: int = 2, into: int = 32, out: int = 32) -> dict[str, torch.Tensor]:
    torch.manual_seed(3)
    return {
        f"{HEAD}{module}.lora_A.weight": torch.randn(rank, into),
        f"{HEAD}{module}.lora_B.weight": torch.randn(out, rank),
    }


def weights_of(loaded: Checkpoint) -> dict[str, torch.Tensor]:
    assert isinstance(loaded.model, DenoiserModule)
    return loaded.model.state_dict()


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return write_tiny(tmp_path_factory.mktemp("adapter") / "tiny")


@pytest.mark.parametrize("case", ["plain", "rslora", "patterns"])
def test_merged_weights_equal_those_of_peft(tmp_path, case):
    path = GOLDEN / f"lora_{case}.safetensors"
    with safe_open(path, "pt") as file:
        said = file.metadata()
    kinds: dict[str, dict[str, torch.Tensor]] = {"base": {}, "adapter": {}, "merged": {}}
    for key, tensor in load_file(path).items():
        kind, name = key.split("/", 1)
        kinds[kind][name] = tensor
    (tmp_path / "config.json").write_text(said["config"])
    save_file(kinds["base"], tmp_path / "model.safetensors")
    config = json.loads(said["adapter_config"])
    adapter = write_adapter(tmp_path / "adapter", kinds["adapter"], **config)
    state = weights_of(load_checkpoint(tmp_path, adapter=adapter))
    assert len(kinds["merged"]) == 6
    for name, base in kinds["base"].items():
        expected = kinds["merged"].get(name, base)
        torch.testing.assert_close(state[name], expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("family", ["dream", "sdar"])
def test_merged_weights_of_a_decoder_equal_base_and_product(tmp_path, family):
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1}
    sizes |= {"num_attention_heads": 2, "num_key_value_heads": 2, "vocab_size": 64}
    sizes |= {"max_position_embeddings": 64, "head_dim": 16, "mask_token_id": 63}
    sizes |= {"eos_token_id": 0, "block_size": 4} if family == "sdar" else {"eos_token_id": 0}
    write_random(tmp_path / "base", sizes, family=family, dtype=torch.float32)
    base = load_checkpoint(tmp_path / "base")
    name = "model.layers.0.mlp.down_proj"
    weight = weights_of(base)[f"{name}.weight"]
    tensors = pair(name, into=weight.shape[1], out=weight.shape[0])
    adapter = write_adapter(tmp_path / "adapter", tensors)
    merged = weights_of(load_checkpoint(tmp_path / "base", adapter=adapter))
    a, b = tensors.values()
    torch.testing.assert_close(merged[f"{name}.weight"], weight + 2.0 * (b @ a))


def test_merged_logits_equal_those_of_a_checkpoint_merged_by_hand(tiny, tmp_path):
    tensors = pair()
    adapter = write_adapter(tmp_path / "adapter", tensors)
    a, b = tensors.values()
    weights = load_file(tiny / "model.safetensors")
    weights[f"{Q}.weight"] = weights[f"{Q}.weight"] + 2.0 * (b @ a)
    by_hand = write_tiny(tmp_path / "merged")
    save_file(weights, by_hand / "model.safetensors")
    ids, lengths = torch.arange(30), torch.tensor([0, 30])

    def logits(folder: Path, added: Path | None = None) -> torch.Tensor:
        model = load_checkpoint(folder, adapter=added).model
        return model.head(model.trunk(ids, lengths))

    merged = logits(tiny, adapter)
    torch.testing.assert_close(merged, logits(by_hand), rtol=1e-5, atol=1e-5)
    assert not torch.allclose(merged, logits(tiny), atol=1e-3)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_folder_converted_with_an_adapter_has_the_merged_weights_in_the_base_s_type(
    tmp_path, dtype
):
    write_random(tmp_path / "base", parse_shape("tiny"), dtype=dtype)
    base = load_file(tmp_path / "base" / "model.safetensors")
    out, into = base[f"{Q}.weight"].shape
    tensors = pair(Q, into=into, out=out)
    adapter = write_adapter(tmp_path / "adapter", tensors)
    convert(tmp_path / "base", tmp_path / "merged", adapter=adapter)
    merged = load_file(tmp_path / "merged" / "model.safetensors")
    a, b = tensors.values()
    assert {tensor.dtype for tensor in merged.values()} == {dtype}
    expected = base.pop(f"{Q}.weight").float() + 2.0 * (b @ a)
    torch.testing.assert_close(merged.pop(f"{Q}.weight"), expected.to(dtype))
    assert merged.keys() == base.keys()
    assert all(torch.equal(merged[name], base[name]) for name in base)
    with pytest.raises(CheckpointError, match="no linear layer of the network"):
        other = write_adapter(tmp_path / "other", pair("model.nowhere"))
        convert(tmp_path / "base", tmp_path / "refused", adapter=other)
    assert not (tmp_path / "refused").exists()


A, B = pair()
REFUSED = [
    ({"use_dora": True}, pair(), "use_dora is True"),
    ({"fan_in_fan_out": True}, pair(), "fan_in_fan_out is True"),
    ({"modules_to_save": ["wte"]}, pair(), "modules_to_save is"),
    ({"bias": "all"}, pair(), "bias is 'all'"),
    ({"lora_bias": True}, pair(), "lora_bias is True"),
    ({"peft_type": "IA3"}, pair(), "peft_type is 'IA3'"),
    ({"r": 0}, pair(), "r is 0"),
    ({"r": 2.0}, pair(), "r is 2.0"),
    ({"lora_alpha": None}, pair(), "lora_alpha is None"),
    ({"rank_pattern": {"(": 2}}, pair(), "rank_pattern: '\\('"),
    ({"r": 3}, pair(), r"lora_A.weight is \[2, 32\], expected \[3, 32\]"),
    ({}, pair(into=31), r"lora_A.weight is \[2, 31\], expected \[2, 32\]"),
    ({}, pair(out=33), r"lora_B.weight is \[33, 2\], expected \[32, 2\]"),
    ({}, pair("model.nothing"), "model.nothing is no linear layer"),
    ({}, pair("model.transformer.wte"), "wte is no linear layer"),
    ({}, pair("model.transformer.ln_f"), "ln_f is no linear layer"),
    ({}, {A: pair()[A]}, "has lora_A but no lora_B"),
    ({}, {B: pair()[B]}, "has lora_B but no lora_A"),
    ({}, {**pair(), "other.weight": torch.ones(1)}, "other.weight is not a lora_A"),
    ({}, {**pair(), A: pair()[A].int()}, "holds I32, not floats"),
    ({}, {**pair(), A: pair()[A] / 0}, "holds values that are not finite"),
    ({}, {}, "no tensors"),
]


@pytest.mark.parametrize(("config", "tensors", "words"), REFUSED)
def test_an_adapter_that_is_not_supported_is_refused_before_the_weights(
    tiny, tmp_path, config, tensors, words
):
    adapter = write_adapter(tmp_path / "adapter", tensors, **config)
    with pytest.raises(CheckpointError, match=words) as caught:
        check_checkpoint(tiny, adapter=adapter)
    assert "\n" not in str(caught.value)
    with pytest.raises(CheckpointError, match=words):
        load_checkpoint(tiny, adapter=adapter)


def test_missing_files_of_an_adapter_are_named(tiny, tmp_path):
    with pytest.raises(CheckpointError, match="must be a folder"):
        check_checkpoint(tiny, adapter=tmp_path / "org" / "name")
    adapter = write_adapter(tmp_path / "adapter", pair())
    (adapter / "adapter_model.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"adapter_model.safetensors is missing"):
        check_checkpoint(tiny, adapter=adapter)
    (adapter / "adapter_model.bin").touch()
    with pytest.raises(CheckpointError, match=r"adapter_model.bin is a pickle"):
        check_checkpoint(tiny, adapter=adapter)
    (adapter / "adapter_config.json").unlink()
    with pytest.raises(CheckpointError, match=r"adapter_config.json is missing"):
        check_checkpoint(tiny, adapter=adapter)


@pytest.mark.parametrize(
    ("further", "words"),
    [({"checkpoints": ["a", "b"]}, "one checkpoint"), ({"tensor_parallel": 2}, "tensor_parallel")],
)
def test_an_adapter_with_settings_that_it_does_not_fit_is_refused(further, words):
    with pytest.raises(ConfigError, match=f"adapter: .*{words}"):
        Settings.read({"adapter": "x", **further})


def test_a_served_adapter_changes_the_answer(tiny, tmp_path):
    adapter = write_adapter(tmp_path / "adapter", pair())
    body = {"prompt": "Once", "max_tokens": 16, "seed": 1, "temperature": 0}
    texts = []
    for added in (None, adapter, None):
        loaded = load_checkpoint(tiny, adapter=added)
        assert loaded.adapter == ("" if added is None else "adapter")
        for served in run_server(make_engine(loaded), settings_of()):
            listed = json.loads(call(served, "GET", "/v1/models")[1])["data"][0]
            assert listed["id"] == "tiny" and listed["diffusion"]["adapter"] == (
                loaded.adapter or None
            )
            status, answer = post(served, **body)
            assert status == 200, answer
            texts.append(answer["choices"][0]["text"])
    assert texts[0] == texts[2] != texts[1]


def test_the_command_line_refuses_an_adapter_in_one_line(tiny, tmp_path):
    for command in (["serve", tiny], ["generate", "--checkpoint", tiny]):
        done = xdlm(*command, "--adapter", tmp_path / "none")
        assert done.returncode == 1 and "must be a folder" in done.stderr
        assert done.stderr.count("\n") == 1
