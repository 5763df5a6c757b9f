"""Settings: the only reader of the environment and of the configuration file."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import BeforeValidator, Field, ValidationError, ValidationInfo, field_validator
from pydantic_settings import BaseSettings, EnvSettingsSource, NoDecode, SettingsConfigDict

from sampler.params import MAX_STEPS
from server.http.api_keys import Keys

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


class ConfigError(ValueError):
    """Settings that cannot be used; the message is one line and holds no key."""


class Settings(BaseSettings):
    """How one server runs. Every field can be set as ``XDLM_<NAME>`` in the environment, and by its
    name in a file.
    """

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
    tensor_parallel: int = Field(
        1, ge=1, description="processes, or CUDA devices, that share one LLaDA"
    )
    max_waiting: int = Field(256, ge=1, description="requests queued before 429")
    max_running: int = Field(64, ge=1, description="requests denoised together")
    max_positions: int = Field(
        0, ge=0, description="canvas positions in one step; 0 takes 512 on a CPU, 16384 on CUDA"
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
    max_picture_frames: int = Field(160, ge=2, description="frames of a GIF; more are thinned out")
    max_picture_pixels: int = Field(2**26, ge=1, description="pixels of a picture, all frames")
    max_body_mb: int = Field(8, ge=1, description="MiB of a request body before 413")
    max_bodies_mb: int = Field(
        64, ge=1, description="MiB of all request bodies at once before 503; at least one fits"
    )
    max_connections: int = Field(
        0, ge=0, description="connections at once; 0 takes what file descriptors allow, up to 4096"
    )
    keep_alive_seconds: int = Field(
        5, ge=1, description="a connection that asks nothing is closed after this"
    )
    api_keys: Annotated[Keys, NoDecode, BeforeValidator(_keys)] = Field(
        Keys(), description="keys that are accepted, with commas between; none asks for none"
    )
    api_key_file: Annotated[Keys, NoDecode, BeforeValidator(_keys_of_file)] = Field(
        Keys(), description="file of more keys, one a line; # begins a comment"
    )
    trace_endpoint: str = Field(
        "", description="OTLP collector that traces are sent to, a whole URL; none sends none"
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

    @field_validator("tensor_parallel")
    @classmethod
    def _one_divided_network(cls, ranks: int, others: ValidationInfo) -> int:
        if ranks > 1 and len(others.data.get("checkpoints", ())) > 1:
            raise ValueError("is for one checkpoint, not several")
        return ranks

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

    @classmethod
    def read(cls, flags: Mapping[str, Any], file: Path | None = None) -> Self:
        """Flags over the environment over a YAML file over defaults.

        Raises:
            ConfigError: a value that is none, or a file that cannot be used.
        """
        filed = {} if file is None else _filed(file)
        try:
            return cls.model_validate({**filed, **EnvSettingsSource(cls)(), **flags})
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"]))
            message = first["msg"].removeprefix("Value error, ")
            raise ConfigError(f"{where}: {message}") from None

    def as_yaml(self) -> str:
        """All settings with what they mean, as a file that ``read`` takes. Keys themselves are not
        in it: where they are named by a file, its path is.
        """
        return "".join(
            f"# {field.description}\n{_line(name, getattr(self, name))}"
            for name, field in type(self).model_fields.items()
        )


def _line(name: str, value: Any) -> str:
    if isinstance(value, Keys):
        if value.file is None:
            return f"# {name}: {len(value.digests) or 'none'} given; keys are not shown\n"
        value = str(value.file)
    return yaml.safe_dump({name: value}, allow_unicode=True, width=1000)


def _filed(path: Path) -> dict[str, Any]:
    """Settings that a file holds; each is one of ours, and none is there twice."""
    try:
        node = yaml.compose(path.read_text(encoding="utf-8"), yaml.SafeLoader)
        found = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from None
    except (UnicodeDecodeError, yaml.YAMLError, ValueError) as error:
        raise ConfigError(f"{path} is not YAML: {' '.join(str(error).split())}") from None
    if node is None:
        return {}
    if not isinstance(node, yaml.MappingNode):
        raise ConfigError(f"{path}: expected lines of the form 'name: value'")
    names = [key.value for key, _ in node.value]
    for name in names:
        if name not in Settings.model_fields:
            near = difflib.get_close_matches(str(name), Settings.model_fields, 1)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise ConfigError(f"{path}: {name} is not a setting{hint}")
        if names.count(name) > 1:
            raise ConfigError(f"{path}: {name} is set twice")
    return found
