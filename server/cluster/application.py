"""The application that Ray Serve deploys."""

# pyright: reportMissingImports=false

from __future__ import annotations

from typing import Any

from ray import serve
from ray.serve import Application, Deployment

from models.checkpoints.load import find_checkpoint
from models.errors import CheckpointError
from models.hub.names import name_of
from server.cluster.autoscaling import SHRINK_SECONDS
from server.cluster.ingress import Ingress
from server.cluster.replica import Replica
from server.cluster.settings import ClusterSettings
from server.config import Settings

NAME = "xdlm"
HELD = 100_000  # requests that Ray Serve lets a replica have: its engine's queue is what refuses
RESERVED = 10  # seconds for a replica to end once its streams have ended


def application(args: ClusterSettings) -> Application:
    """The ingress and a deployment for each model.

    Raises:
        CheckpointError: a checkpoint is missing, or two have one name.
    """
    places = {name_of(find_checkpoint(name)): name for name in args.checkpoints}
    if len(places) < len(args.checkpoints):
        raise CheckpointError("two checkpoints have the same name")
    given = {n: getattr(args, n) for n in Settings.model_fields}
    if args.device == "auto":  # a replica has the GPUs that Ray reserves for it
        given["device"] = "cuda" if args.replica_gpus else "cpu"
    settings = Settings.model_validate(given)
    replicas: dict[str, Any] = {
        model: _replicas(model, args).bind(checkpoint, settings)
        for model, checkpoint in places.items()
    }
    ingress: Any = serve.deployment(
        serve.ingress()(Ingress),
        name="front",
        num_replicas=args.fronts,
        max_ongoing_requests=HELD,
        max_surge_percent=100,  # the next version takes requests before this one stops to
        ray_actor_options={"num_cpus": 0},
        graceful_shutdown_timeout_s=args.drain_seconds + 2 * RESERVED,
    )
    return ingress.bind(settings, replicas)


def _replicas(model: str, args: ClusterSettings) -> Deployment:
    """The deployment of a model."""
    scaling: dict[str, Any] = {"num_replicas": args.replicas}
    if args.max_replicas > args.replicas:
        policy = {
            "policy_function": "server.cluster.autoscaling:BacklogPolicy",
            "policy_kwargs": {"target_seconds": args.target_seconds},
        }
        scaling = {
            "autoscaling_config": {
                "min_replicas": args.replicas,
                "max_replicas": args.max_replicas,
                "policy": policy,
                "upscale_delay_s": 0,
                "downscale_delay_s": SHRINK_SECONDS,
            }
        }
    made: Any = serve.deployment(  # typed as if it always returned a decorator
        Replica,
        name=model.replace("/", "--"),
        max_ongoing_requests=HELD,
        ray_actor_options={"num_cpus": args.replica_cpus, "num_gpus": args.replica_gpus},
        request_router_config={"request_router_class": "server.cluster.router:LeastWork"},
        max_surge_percent=args.surge_percent,
        health_check_period_s=2,
        health_check_timeout_s=10,
        graceful_shutdown_wait_loop_s=0.5,
        graceful_shutdown_timeout_s=args.drain_seconds + RESERVED,
        **scaling,
    )
    return made
