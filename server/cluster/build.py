"""The cluster's settings, and the application that Ray Serve deploys."""

# no ``from __future__ import annotations``: Ray Serve reads the type of the argument of ``app``

from typing import Any

from pydantic import Field
from ray import serve
from ray.serve import Application, Deployment

from models import checkpoint as checkpoints
from server.cluster.front import Front
from server.cluster.replica import Replica
from server.config import Settings

NAME = "xdlm"
HELD = 100_000  # requests that Ray Serve lets a replica have: its engine's queue is what refuses
RESERVED = 10  # seconds for a replica to end once its streams have ended


class ClusterSettings(Settings):
    """How a cluster runs. Limits are those of each replica; every field can be set as
    ``XDLM_<NAME>`` in the environment.
    """

    replicas: int = Field(2, ge=1, description="of each model, to begin with")
    max_replicas: int = Field(
        0, ge=0, description="up to which each model grows with its queued work; 0 grows never"
    )
    target_seconds: float = Field(
        30, gt=0, description="of work left on each replica, that growing aims at"
    )
    fronts: int = Field(1, ge=1, description="processes that clients speak to")
    replica_cpus: float = Field(1, ge=0, description="CPUs that Ray reserves for a replica")
    replica_gpus: float = Field(0, ge=0, description="GPUs, or a share of one, for a replica")
    drain_seconds: float = Field(
        600, ge=0, description="for the streams of a replica that is taken away to end"
    )


def app(args: ClusterSettings) -> Application:
    """The application; ``serve run server.cluster:app FIELD=VALUE`` calls it with the fields.

    Raises:
        CheckpointError: a checkpoint is missing, or two have one name.
    """
    places = {checkpoints.find(name).resolve().name: name for name in args.checkpoints}
    if len(places) < len(args.checkpoints):
        raise checkpoints.CheckpointError("two checkpoints have the same name")
    # without what is the cluster's, so that a change of the number of replicas restarts none
    settings = Settings.model_validate({n: getattr(args, n) for n in Settings.model_fields})
    replicas: dict[str, Any] = {
        model: _replicas(model, args).bind(checkpoint, settings)
        for model, checkpoint in places.items()
    }
    front: Any = serve.deployment(
        serve.ingress()(Front),
        name="front",
        num_replicas=args.fronts,
        max_ongoing_requests=HELD,
        ray_actor_options={"num_cpus": 0},
        graceful_shutdown_timeout_s=args.drain_seconds + 2 * RESERVED,
    )
    return front.bind(settings, replicas)


def _replicas(model: str, args: ClusterSettings) -> Deployment:
    """The deployment of a model."""
    growing: dict[str, Any] = {"num_replicas": args.replicas}
    if args.max_replicas > args.replicas:
        policy = {
            "policy_function": "server.cluster.growing:ByWork",
            "policy_kwargs": {"target_seconds": args.target_seconds},
        }
        growing = {
            "autoscaling_config": {
                "min_replicas": args.replicas,
                "max_replicas": args.max_replicas,
                "policy": policy,
            }
        }
    made: Any = serve.deployment(  # typed as if it always returned a decorator
        Replica,
        name=model,
        max_ongoing_requests=HELD,
        ray_actor_options={"num_cpus": args.replica_cpus, "num_gpus": args.replica_gpus},
        request_router_config={"request_router_class": "server.cluster.router:LeastWork"},
        health_check_period_s=2,
        health_check_timeout_s=10,
        graceful_shutdown_wait_loop_s=0.5,
        graceful_shutdown_timeout_s=args.drain_seconds + RESERVED,
        **growing,
    )
    return made
