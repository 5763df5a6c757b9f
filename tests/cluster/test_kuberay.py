"""The manifest for the KubeRay operator, by the operator's own definition of a RayService and by
Kubernetes' schema of pods. Needs no Ray.

``FIELDS`` says of the fields that the manifest uses what the definition says: their types and which
are required, read from ``helm-chart/kuberay-operator/crds/ray.io_rayservices.yaml`` of
github.com/ray-project/kuberay (commit 02a80a6f, version ``v1``). A field that is not here is one
that nobody has looked up.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml

from server.cluster.settings import ClusterSettings
from tests.support.paths import ROOT

COUNT = {"type": "integer", "minimum": 0, "maximum": 2**31 - 1}
START = {"type": "object", "additionalProperties": {"type": "string"}}
TEMPLATE = {"type": "object"}  # judged by Kubernetes' own schema


def of(required: list[str], **properties: Any) -> dict[str, Any]:
    """An object that has no other fields."""
    return {
        "type": "object",
        "properties": properties,
        "required": required,
        "additionalProperties": False,
    }


HEAD = of(["template"], rayStartParams=START, template=TEMPLATE)
WORKERS = of(
    ["groupName", "maxReplicas", "minReplicas", "template"],
    groupName={"type": "string"},
    replicas=COUNT,
    minReplicas=COUNT,
    maxReplicas=COUNT,
    rayStartParams=START,
    template=TEMPLATE,
)
CLUSTER = of(
    ["headGroupSpec"],
    rayVersion={"type": "string"},
    enableInTreeAutoscaling={"type": "boolean"},
    authOptions=of(["mode"], mode={"enum": ["disabled", "token"]}),
    headGroupSpec=HEAD,
    workerGroupSpecs={"type": "array", "items": WORKERS},
)
SPEC = of(
    ["rayClusterConfig"],
    rayClusterDeletionDelaySeconds=COUNT,
    serveConfigV2={"type": "string"},
    rayClusterConfig=CLUSTER,
)
FIELDS = of(
    ["apiVersion", "kind", "metadata", "spec"],
    apiVersion={"const": "ray.io/v1"},
    kind={"const": "RayService"},
    metadata=of(
        ["name"],
        name={"type": "string", "pattern": "^[a-z]([-a-z0-9]*[a-z0-9])?$"},
    ),
    spec=SPEC,
)


def manifest() -> dict[str, Any]:
    return yaml.safe_load((ROOT / "deploy" / "ray" / "kuberay.yaml").read_text())


def groups(cluster: dict[str, Any]) -> list[dict[str, Any]]:
    """The head's and the workers'."""
    return [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]


def test_the_manifest_is_a_ray_service():
    jsonschema.validate(manifest(), FIELDS)


@pytest.mark.parametrize("version", ["1.31", "1.33"])
def test_its_pods_are_by_the_schema(version):
    for group in groups(manifest()["spec"]["rayClusterConfig"]):
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x"}, **group["template"]}
        kubernetes_validate.validate(pod, version, strict=True)


def misspelt(service: dict[str, Any]) -> None:
    cluster = service["spec"]["rayClusterConfig"]
    cluster["workerGroupSpec"] = cluster.pop("workerGroupSpecs")


def number_for_text(service: dict[str, Any]) -> None:
    service["spec"]["rayClusterConfig"]["headGroupSpec"]["rayStartParams"]["num-cpus"] = 0


def without_limits(service: dict[str, Any]) -> None:
    del service["spec"]["rayClusterConfig"]["workerGroupSpecs"][0]["maxReplicas"]


@pytest.mark.parametrize("damage", [misspelt, number_for_text, without_limits])
def test_what_the_operator_refuses_is_refused(damage: Callable[[dict[str, Any]], None]):
    service = manifest()
    damage(service)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(service, FIELDS)


def test_pods_and_clusters_outlive_the_streams_in_them():
    """A cluster that another has taken over from is deleted after a while, pods and all."""

    drain = ClusterSettings.model_fields["drain_seconds"].default
    spec = manifest()["spec"]
    assert spec["rayClusterDeletionDelaySeconds"] > drain
    for workers in spec["rayClusterConfig"]["workerGroupSpecs"]:
        assert workers["template"]["spec"]["terminationGracePeriodSeconds"] > drain
        assert workers["minReplicas"] <= workers["replicas"] <= workers["maxReplicas"]


def test_every_container_has_the_keys_and_the_size_that_ray_is_told():
    """Ray counts a node's CPUs and memory by the container's limits, or else by its requests."""
    for group in groups(manifest()["spec"]["rayClusterConfig"]):
        pod = group["template"]["spec"]
        volumes = {volume["name"] for volume in pod["volumes"]}
        for container in pod["containers"]:
            assert {"cpu", "memory"} <= container["resources"]["requests"].keys()
            assert {mount["name"] for mount in container["volumeMounts"]} <= volumes
