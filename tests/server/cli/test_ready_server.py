"""Modules and variables of a process that is about to listen."""

from __future__ import annotations

import gc

import torch

from models.cache import CacheShape, Slab
from server.cli.collections import without_collections
from tests.support.memory import rss
from tests.support.ready_server import ready_server


def test_loading_does_not_import_the_compiler():
    """Which takes longer than to load a small model."""
    assert "torch._dynamo" not in ready_server().modules


def test_without_an_endpoint_nothing_of_opentelemetry_is_imported():
    ours = ("opentelemetry.sdk", "opentelemetry.exporter")  # transformers loads the interface
    assert not [name for name in ready_server().modules if name.startswith(ours)]


def test_command_sets_how_long_threads_spin():
    assert ready_server().variables["GOMP_SPINCOUNT"] == "10000"


def test_a_single_server_does_not_import_ray():
    assert "ray" not in ready_server().modules


def test_the_hub_is_imported_where_one_is_named_alone():
    """``xdlm serve stories`` starts without it, and asks no network."""
    assert not {"huggingface_hub", "httpx2"} & ready_server().modules


def test_responses_are_described_for_the_document_alone():
    """Their schemas would be a fifth of the start."""
    assert ready_server().described_responses == 0


def test_room_for_keys_and_values_takes_no_memory_before_it_is_written():
    shape = CacheShape(layers=4, heads=8, width=64)
    before = rss()
    slab = Slab(shape, 1 << 15, torch.float32, torch.device("cpu"))
    assert slab.keys.nbytes + slab.values.nbytes == 1 << 29
    assert rss() - before < 1 << 24
    slab.keys[:, 5] = 1.0
    assert float(slab.keys.sum()) == 4 * 8 * 64 and not slab.values[:, :9].any()


def test_a_command_collects_no_garbage_while_it_starts_and_does_afterwards():
    frozen = gc.get_freeze_count()
    with without_collections():
        assert not gc.isenabled()
    assert gc.isenabled() and gc.get_freeze_count() > frozen
    gc.unfreeze()
