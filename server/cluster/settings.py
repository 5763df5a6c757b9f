"""The cluster's settings. Nothing here needs Ray."""

from __future__ import annotations

from typing import Self

from pydantic import Field, model_validator

from server.config import Settings


class ClusterSettings(Settings):
    """How a cluster runs. Limits are those of each replica; every field can be set as
    ``XDLM_<NAME>`` in the environment.
    """

    replicas: int = Field(2, ge=1, description="of each model, to begin with")
    max_replicas: int = Field(
        0,
        ge=0,
        description="up to which each model grows with its queued work; 0 disables autoscaling",
    )
    target_seconds: float = Field(
        30, gt=0, description="of work left on each replica that autoscaling aims at"
    )
    fronts: int = Field(1, ge=1, description="processes that clients speak to")
    replica_cpus: float = Field(1, ge=0, description="CPUs that Ray reserves for a replica")
    replica_gpus: float = Field(
        0, ge=0, description="GPUs, or a share of one, for a replica", validate_default=True
    )
    surge_percent: int = Field(
        25, ge=0, le=100, description="of more replicas while the next version takes over"
    )
    drain_seconds: float = Field(
        600, ge=0, description="for the streams of a replica that is taken away to end"
    )

    @model_validator(mode="after")
    def _one_for_each_rank(self) -> Self:
        ranks = self.tensor_parallel
        cuda = self.device == "cuda" or (self.device == "auto" and self.replica_gpus > 0)
        if ranks > 1 and cuda and self.replica_gpus != ranks:
            raise ValueError(f"replica_gpus: must be {ranks}, as tensor_parallel is")
        return self
