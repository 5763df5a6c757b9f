"""A tiny real checkpoint on disk, and a real server on a thread of the test's process."""

from __future__ import annotations

import json
import shutil
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from models.bundled import BUNDLED
from models.families.llada import LLaDA, LLaDAConfig
from server.api.app import create_app
from server.api.lifecycle import Server
from server.config import Settings
from server.engine.engine import Engine
from server.engine.factory import engine_of
from server.http.protocol import GuardedProtocol

TINY_DEFAULTS = {
    **{"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1, "max_new_tokens": 250},
    **{"sampler": "ancestral", "steps": 32, "mixing_ratio": 0.1, "noise_schedule": "log_linear"},
    **{"temperature": 0.3, "top_p": 1.0, "noise_removal": "ancestral"},
}
"""``generation_config.json`` of the tiny checkpoint."""


def write_tiny(folder: Path, layers: int = 1) -> Path:
    """A seeded random LLaDA of 32 dimensions with the tokenizer of ``stories``."""
    folder.mkdir()
    config = json.loads((BUNDLED / "stories" / "config.json").read_text())
    config |= {"d_model": 32, "n_layers": layers, "n_heads": 2, "n_kv_heads": 2}
    config |= {"mlp_hidden_size": 48}
    torch.manual_seed(7)
    model = LLaDA(LLaDAConfig.from_dict(config))
    weights = {n: 2 * p.detach() for n, p in model.named_parameters()}
    save_file(weights, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(config))
    shutil.copy(BUNDLED / "stories" / "tokenizer.json", folder / "tokenizer.json")
    (folder / "generation_config.json").write_text(json.dumps(TINY_DEFAULTS))
    return folder


def make_engine(checkpoint, **limits) -> Engine:
    return engine_of(checkpoint, settings_of(**limits))


def settings_of(**chosen) -> Settings:
    return Settings.model_validate({"checkpoints": ["tiny"], "port": 0, **chosen})


@dataclass(frozen=True)
class Served:
    """A server on a thread of this process."""

    url: str
    port: int
    engine: Engine
    state: Any = None  # what its routes share


def run_server(
    engine: Engine,
    settings: Settings,
    *others: Engine,
    http: type[GuardedProtocol] = GuardedProtocol,
) -> Iterator[Served]:
    engines = [engine, *others]
    app = create_app(engines, settings)
    server = Server(app, engines, settings.shutdown_seconds, http)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
        assert thread.is_alive()
    port = server.servers[0].sockets[0].getsockname()[1]
    yield Served(f"http://127.0.0.1:{port}", port, engine, app.state.xdlm)
    server.should_exit = True
    thread.join()
