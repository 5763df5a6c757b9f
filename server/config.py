"""Settings: the only reader of the environment. Flags of the command line override it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, ValidationInfo, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from sampler.params import MAX_STEPS
from server.keys import Keys

LOOPBACK = frozenset({"localhost", "127.0.0.1", "[::1]"})


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
    max_positions: int = Field(
        0, ge=0, description="canvas positions in one step; 0 takes 128 on a CPU, 16384 on CUDA"
    )
    max_backlog: int = Field(2**26, ge=1, description="steps times positions that wait before 429")
    queue_seconds: float = Field(
        300, ge=0, description="a request that has not begun after this fails; 0 never"
    )
    request_seconds: float = Field(
        0, ge=0, description="a request that has not ended after this fails; 0 never"
    )
    watchdog_seconds: float = Field(
        60, ge=0, description="a step that takes longer hangs; 0 watches nothing"
    )
    max_score_samples: int = Field(1024, ge=1, description="Monte Carlo samples of one score")
    score_positions: int = Field(
        0,
        ge=0,
        description="canvas positions scored between two denoising steps; 0 takes as many as a "
        "step has, up to 1024",
    )
    ping_seconds: int = Field(15, ge=1, description="silence on a stream before a comment is sent")
    shutdown_seconds: int = Field(
        10, ge=0, description="time for requests under way to end at shutdown"
    )
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
    max_body_mb: int = Field(8, ge=1, description="MiB of a request body before 413")
    api_keys: Annotated[Keys, NoDecode, BeforeValidator(_keys)] = Field(
        Keys(), description="keys that are accepted, with commas between; none asks for none"
    )
    api_key_file: Annotated[Keys, NoDecode, BeforeValidator(_keys_of_file)] = Field(
        Keys(), description="file of more keys, one a line; # begins a comment"
    )
    allowed_hosts: Annotated[list[str], NoDecode, BeforeValidator(_names)] = Field(
        [],
        description="names in the Host header that are answered, with commas between; none: "
        "those of loopback on a loopback address, else all",
    )
    rate_per_minute: int = Field(0, ge=0, description="requests for work a minute; 0 is no limit")
    key_rate_per_minute: int = Field(
        0, ge=0, description="requests for work a minute of each key; 0 is no limit"
    )
    docs: bool = Field(False, description="serve /openapi.json and /docs")

    @field_validator("key_rate_per_minute")
    @classmethod
    def _rates_need_keys(cls, rate: int, info: ValidationInfo) -> int:
        if rate and not (info.data.get("api_keys") or info.data.get("api_key_file")):
            raise ValueError("is for a server that asks for keys")
        return rate

    @property
    def hosts(self) -> frozenset[str]:
        """Names that the ``Host`` header may have; none allows all."""
        if self.allowed_hosts:
            return frozenset(name.lower() for name in self.allowed_hosts)
        return LOOPBACK if self.host in ("localhost", "127.0.0.1", "::1") else frozenset()

    @property
    def keys(self) -> Keys:
        """All keys; without any, none is asked for."""
        return self.api_keys | self.api_key_file
