"""Settings: the only reader of the environment. Flags of the command line override it."""

from __future__ import annotations

from typing import Literal

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict


class Settings(BaseSettings):
    """How one server runs. Every field can be set as ``XDLM_<NAME>`` in the environment."""

    model_config = SettingsConfigDict(env_prefix="XDLM_", extra="ignore", frozen=True)

    checkpoint: str = Field("stories", description="bundled name or folder")
    host: str = Field("127.0.0.1", description="address to listen on")
    port: int = Field(8000, ge=0, le=65535, description="port to listen on; 0 picks a free one")
    device: str = Field("cpu", description="cpu, cuda or cuda:N")
    dtype: Literal["auto", "float32", "bfloat16"] = Field(
        "auto", description="of the weights; auto is float32 on a CPU, bfloat16 on CUDA"
    )
    threads: int = Field(0, ge=0, description="CPU threads of the model; 0 takes all cores")
    max_waiting: int = Field(256, ge=1, description="requests queued before 429")
    max_running: int = Field(64, ge=1, description="requests denoised together")
    max_positions: int = Field(16384, ge=1, description="canvas positions in one step")
    max_score_samples: int = Field(1024, ge=1, description="Monte Carlo samples of one score")
    score_positions: int = Field(
        1024, ge=1, description="canvas positions scored between two denoising steps"
    )
    ping_seconds: int = Field(15, ge=1, description="silence on a stream before a comment is sent")
    shutdown_seconds: int = Field(10, ge=0, description="time for streams to end at shutdown")
    resume_seconds: float = Field(
        10, ge=0, description="a trajectory that nobody reads is cancelled after this"
    )
    trajectory_store_mb: int = Field(256, ge=1, description="memory of recorded trajectories")
    trajectory_store_seconds: float = Field(
        600, ge=0, description="a finished trajectory can be read again for so long"
    )
