"""The files of ``deploy/ray`` are what Ray Serve takes."""

# pyright: reportMissingImports=false

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from server.cluster.settings import ClusterSettings

pytestmark = pytest.mark.cluster

FOLDER = Path(__file__).parents[2] / "deploy" / "ray"


def configs() -> dict[str, dict[str, Any]]:
    """Ray Serve's config by the file that it is in."""
    service = yaml.safe_load((FOLDER / "kuberay.yaml").read_text())
    return {
        "serve": yaml.safe_load((FOLDER / "serve.yaml").read_text()),
        "kuberay": yaml.safe_load(service["spec"]["serveConfigV2"]),
    }


@pytest.mark.parametrize("name", ["serve", "kuberay"])
@pytest.mark.filterwarnings("ignore")  # Ray's own
def test_ray_serve_takes_the_config(name):
    from ray.serve.schema import ServeDeploySchema

    config = ServeDeploySchema.model_validate(configs()[name])
    (app,) = config.applications
    assert app.import_path == "server.cluster:app" and app.route_prefix == "/"
    args = dict(app.args)
    assert not args.keys() - ClusterSettings.model_fields.keys()
    args.pop("api_key_file", None)  # a file of the cluster's
    assert ClusterSettings.model_validate(args).max_replicas == 8


@pytest.mark.filterwarnings("ignore")
def test_the_manifest_fits_itself():
    """Version and size agree with what they depend on."""
    import ray

    spec = yaml.safe_load((FOLDER / "kuberay.yaml").read_text())["spec"]["rayClusterConfig"]
    assert spec["rayVersion"] == ray.__version__
    (workers,) = spec["workerGroupSpecs"]
    pod = workers["template"]["spec"]
    cpus = float(pod["containers"][0]["resources"]["requests"]["cpu"])
    args = configs()["kuberay"]["applications"][0]["args"]
    assert workers["maxReplicas"] * cpus >= args["max_replicas"] * args["replica_cpus"]
