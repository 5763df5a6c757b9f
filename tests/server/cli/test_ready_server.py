"""Modules and variables of a process that is about to listen."""

from __future__ import annotations

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
