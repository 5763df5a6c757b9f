"""Settings: the only reader of the environment. Flags of the command line override it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from sampler.params import MAX_STEPS
from server.keys import Keys


def _keys(given: Any) -> Any:
    """Keys from a list, or from a text with commas between."""
    if isinstance(given, str):
        given = given.split(",")
    return Keys.of(given) if isinstance(given, list) else given


def _names(given: Any) -> Any:
    """Names from a list, or from a text with commas between."""
    return [name.strip() for name in given.split(",")] if isinstance(given, str) else given


def _keys_of_file(given: Any) -> Any:
    return Keys.read(Path(given)) if isinstance(given, str | Path) else given


class Settings(BaseSettings):
    """How one server runs. Every field can be set as ``XDLM_<NAME>`` in the environment."""

    model_config = SettingsConfigDict(
        env_prefix="XDLM_", extra="ignore", frozen=True, hide_input_in_errors=True
    )

    checkpoints: Annotated[list[str], NoDecode, BeforeValidator(_names), Field(min_length=1)] = (
        Field(["stories"], description="bundled names and folders, with commas between")
    )
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
    max_choices: int = Field(128, ge=1, description="n times prompts of one request")
    max_steps: int = Field(MAX_STEPS, ge=1, le=MAX_STEPS, description="steps of one request")
    # the longest canvas in use, 4 096 positions, filled one token a step
    max_work: int = Field(2**24, ge=1, description="steps times positions of one request")
    max_stops: int = Field(16, ge=0, description="stop strings of one request")
    max_stop_length: int = Field(256, ge=1, description="characters of a stop string")
    max_picture_frames: int = Field(160, ge=2, description="frames of a GIF; more are thinned out")
    max_picture_pixels: int = Field(2**26, ge=1, description="pixels of a picture, all frames")
    max_body_mb: int = Field(8, ge=1, description="MiB of a request body before 413")
    api_keys: Annotated[Keys, NoDecode, BeforeValidator(_keys)] = Field(
        Keys(), description="keys that are accepted, with commas between; none asks for none"
    )
    api_key_file: Annotated[Keys, NoDecode, BeforeValidator(_keys_of_file)] = Field(
        Keys(), description="file of more keys, one a line; # begins a comment"
    )
    docs: bool = Field(False, description="serve /openapi.json and /docs")

    @property
    def keys(self) -> Keys:
        """All keys; without any, none is asked for."""
        return self.api_keys | self.api_key_file
