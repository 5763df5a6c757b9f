"""Settings: the only reader of the environment and of the configuration file."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import (
    BeforeValidator,
    Field,
    InstanceOf,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic_settings import BaseSettings, EnvSettingsSource, NoDecode, SettingsConfigDict

from models.checkpoints.devices import DEVICE, DEVICE_WORDS
from sampler.params import MAX_STEPS
from server import config_values as values
from server.config_file import ConfigError, filed, nearest
from server.http.addresses import LOOPBACK, is_loopback, url_host
from server.http.api_keys import Keys

__all__ = ["ConfigError", "Settings"]

PREFIX = "XDLM_"


class Settings(BaseSettings):
    """How one server runs. Every field can be set as ``XDLM_<NAME>`` in the environment, and by its
    name in a file.
    """

    model_config = SettingsConfigDict(
        env_prefix=PREFIX,
        extra="forbid",
        frozen=True,
        hide_input_in_errors=True,
        allow_inf_nan=False,
    )

    checkpoints: Annotated[
        list[str], NoDecode, BeforeValidator(values.names), Field(min_length=1)
    ] = Field(
        ["stories"],
        description="bundled names, folders or ORG/NAME[@REVISION] on the hub, separated by commas",
    )
    adapter: str = Field(
        "", description="folder of a LoRA adapter that is added to the weights of one checkpoint"
    )
    host: str = Field("127.0.0.1", min_length=1, description="address to listen on")
    port: int = Field(8000, ge=0, le=65535, description="port to listen on; 0 picks a free one")
    device: str = Field(
        "auto",
        description="auto, cpu, cuda or cuda:N; auto is CUDA where there is a device, or cpu",
    )
    dtype: Literal["auto", "float32", "bfloat16", "float8", "int8"] = Field(
        "auto",
        description="of the weights; auto is bfloat16 on CUDA, and for large models on CPUs that "
        "compute in it, else float32; float8 and int8 are approximations, int8 is for CPUs",
    )
    threads: int = Field(0, ge=0, le=1024, description="CPU threads of the model; 0 uses all cores")
    force_memory: bool = Field(
        False,
        description="start even if the weights and a step need more memory than the device has",
    )
    tensor_parallel: int = Field(
        1, ge=1, le=1024, description="processes or CUDA devices that one network is split over"
    )
    max_waiting: int = Field(256, ge=1, description="requests queued before 429")
    max_running: int = Field(64, ge=1, description="requests denoised together")
    max_positions: int = Field(
        0,
        ge=0,
        description="canvas positions in one step; 0 means 512 on a CPU, and on CUDA those that "
        "take 0.1 s at the measured pace, 1024 to 16384, but never more than fit into free memory",
    )
    cache_positions: int = Field(
        0,
        ge=0,
        description="canvas positions whose keys and values can be kept; 0 means 8192 on a CPU and "
        "for models with block-causal attention, and none for others on CUDA",
    )
    cuda_graphs: bool = Field(
        True,
        description="record denoising steps on CUDA and run the recordings; false launches each "
        "kernel of each step",
    )
    max_backlog: int = Field(
        2**26, ge=1, description="queued work before 429, in steps times positions"
    )
    queue_seconds: float = Field(
        300, ge=0, description="seconds after which a queued request fails; 0 disables it"
    )
    request_seconds: float = Field(
        0, ge=0, description="seconds after which an unfinished request fails; 0 disables it"
    )
    watchdog_seconds: float = Field(
        60, ge=0, description="seconds after which a step counts as hung; 0 disables the watchdog"
    )
    max_score_samples: int = Field(1024, ge=1, description="Monte Carlo samples of one score")
    score_positions: int = Field(
        0,
        ge=0,
        description="canvas positions scored between two denoising steps; 0 means max_positions, "
        "at most 1024",
    )
    ping_seconds: int = Field(
        15, ge=1, description="seconds without an event before a stream gets a comment"
    )
    shutdown_seconds: int = Field(
        10, ge=0, description="seconds for running requests to end at shutdown"
    )
    resume_seconds: float = Field(
        10, ge=0, description="seconds after which a trajectory without readers is cancelled"
    )
    trajectory_store_mb: int = Field(
        256, ge=1, description="MiB of memory for recorded trajectories"
    )
    trajectory_store_seconds: float = Field(
        600, ge=0, description="seconds for which a finished trajectory is stored"
    )
    max_choices: int = Field(128, ge=1, description="choices of one request: n times prompts")
    max_steps: int = Field(MAX_STEPS, ge=1, le=MAX_STEPS, description="steps of one request")
    # the longest canvas in use, 4 096 positions, filled one token a step
    max_work: int = Field(2**24, ge=1, description="steps times positions of one request")
    max_stops: int = Field(16, ge=0, description="stop strings of one request")
    max_stop_length: int = Field(256, ge=1, description="characters of a stop string")
    constraint_states: int = Field(
        8192, ge=16, description="states of a constraint's automaton over bytes"
    )
    constraint_transitions: int = Field(
        2**18, ge=16, description="transitions of a constraint's automaton over tokens"
    )
    constraint_seconds: float = Field(
        5, gt=0, le=60, description="seconds in which a constraint is compiled"
    )
    max_constraints: int = Field(256, ge=1, description="compiled constraints that are kept")
    max_picture_frames: int = Field(
        160, ge=2, description="frames of a GIF; of longer runs some are left out"
    )
    max_picture_pixels: int = Field(2**26, ge=1, description="pixels of a picture, all frames")
    max_body_mb: int = Field(8, ge=1, description="MiB of a request body before 413")
    max_bodies_mb: int = Field(
        64, ge=1, description="MiB of all request bodies together before 503; at least max_body_mb"
    )
    max_connections: int = Field(
        0,
        ge=0,
        description="open connections; 0 uses what the file descriptor limit allows, at most 4096",
    )
    keep_alive_seconds: int = Field(
        5, ge=1, description="seconds after which an idle connection is closed"
    )
    api_keys: Annotated[InstanceOf[Keys], NoDecode, BeforeValidator(values.keys)] = Field(
        Keys(), description="accepted API keys, separated by commas; empty disables authentication"
    )
    api_key_file: Annotated[InstanceOf[Keys], NoDecode, BeforeValidator(values.keys_of_file)] = (
        Field(Keys(), description="file of further API keys, one a line; # begins a comment")
    )
    trace_endpoint: str = Field(
        "", description="URL of an OTLP/HTTP collector for traces; empty disables tracing"
    )
    allowed_hosts: Annotated[list[str], NoDecode, BeforeValidator(values.names)] = Field(
        [],
        description="accepted names in Host headers, separated by commas; empty accepts loopback "
        "names on a loopback address, and all names elsewhere",
    )
    rate_per_minute: int = Field(
        0, ge=0, description="POST requests a minute; 0 disables the limit"
    )
    key_rate_per_minute: int = Field(
        0, ge=0, description="POST requests a minute of each key; 0 disables the limit"
    )
    docs: bool = Field(False, description="serve /openapi.json and /docs")

    @field_validator("*", mode="before")
    @classmethod
    def _of_its_kind(cls, given: Any, info: ValidationInfo) -> Any:
        """Refuse values that Pydantic would coerce to another meaning."""
        return values.of_its_kind(cls.model_fields[str(info.field_name)].annotation, given)

    @field_validator("host")
    @classmethod
    def _one_address(cls, host: str) -> str:
        if host != host.strip() or " " in host:
            raise ValueError("must not contain blanks")
        return host[1:-1] if host.startswith("[") and host.endswith("]") else host

    @field_validator("device")
    @classmethod
    def _known_device(cls, device: str) -> str:
        if not (device == "auto" or DEVICE.fullmatch(device)):
            raise ValueError(f"must be {DEVICE_WORDS}; mps, xpu and meta are not supported")
        return device

    @field_validator("trace_endpoint")
    @classmethod
    def _whole_url(cls, endpoint: str) -> str:
        if endpoint and not values.is_whole_url(endpoint):
            raise ValueError("must be a full URL, such as http://127.0.0.1:4318/v1/traces")
        return endpoint

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.tensor_parallel > 1 and len(self.checkpoints) > 1:
            raise ValueError("tensor_parallel: is only supported with one checkpoint")
        if self.adapter and len(self.checkpoints) > 1:
            raise ValueError("adapter: is only supported with one checkpoint")
        if self.adapter and self.tensor_parallel > 1:
            raise ValueError("adapter: cannot be combined with tensor_parallel")
        if self.key_rate_per_minute and not self.keys:
            raise ValueError("key_rate_per_minute: needs api_keys or api_key_file")
        return self

    @property
    def hosts(self) -> frozenset[str]:
        """Accepted names in the ``Host`` header; empty accepts all."""
        if self.allowed_hosts:
            return frozenset(name.lower() for name in self.allowed_hosts)
        return LOOPBACK | {url_host(self.host)} if is_loopback(self.host) else frozenset()

    def at(self, address: str) -> Self:
        """The settings once the listener has its address: a name that leads to a loopback address
        is guarded like one, so that no page's name that leads there too is answered.
        """
        if self.allowed_hosts or self.hosts or not is_loopback(address):
            return self
        names = sorted(LOOPBACK | {url_host(self.host), url_host(address)})
        return self.model_copy(update={"host": address, "allowed_hosts": names})

    @property
    def adapter_folder(self) -> Path | None:
        """The folder of the adapter, if there is one."""
        return Path(self.adapter) if self.adapter else None

    @property
    def keys(self) -> Keys:
        """All API keys; empty disables authentication."""
        return self.api_keys | self.api_key_file

    @classmethod
    def read(cls, flags: Mapping[str, Any], file: Path | None = None) -> Self:
        """Flags over the environment over a YAML file over defaults. An invalid value is
        an error even if it is overridden.

        Raises:
            ConfigError: an invalid value, or a file that cannot be used.
        """
        settings: dict[str, Any] = {}
        for name, value, place in cls._given(flags, file):
            try:
                settings[name] = getattr(cls.model_validate({name: value}), name)
            except ValidationError as error:
                if message := _of_field(error):
                    raise ConfigError(f"{place}: {name}: {message}") from None
                settings[name] = value  # it does not fit the defaults
        try:
            return cls.model_validate(settings)
        except ValidationError as error:
            raise ConfigError(_message(error.errors()[0]["msg"])) from None

    @classmethod
    def _given(cls, flags: Mapping[str, Any], file: Path | None) -> Iterator[tuple[str, Any, str]]:
        """Names, values and their sources, in ascending priority."""
        if file is not None:
            for name, (value, line) in filed(file, cls.model_fields).items():
                yield name, value, f"{file}, line {line}"
        variables = {f"{PREFIX}{name.upper()}": name for name in cls.model_fields}
        for variable in os.environ:
            if variable.upper().startswith(PREFIX) and variable.upper() not in variables:
                near = nearest(variable.upper(), variables)
                hint = f"; did you mean {near}?" if near else ""
                raise ConfigError(f"{ascii(variable)[1:-1]} is not a setting's variable{hint}")
        for name, value in EnvSettingsSource(cls)().items():
            yield name, value, f"{PREFIX}{name.upper()}"
        for name, value in flags.items():
            yield name, value, "command line"

    def as_yaml(self) -> str:
        """All settings with their descriptions, as a YAML file for ``read``. API keys are left out;
        the path of a key file is included.
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


def keep_keys_from_children() -> None:
    """Keep API keys, and a hub's token, out of the environment of processes started from now on."""
    for name in os.environ:
        if name.upper() in (f"{PREFIX}API_KEYS", "HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
            os.unsetenv(name)


def _of_field(error: ValidationError) -> str:
    """The error of a field itself; empty if it only conflicts with other fields."""
    return next((_message(e["msg"]) for e in error.errors() if e["loc"]), "")


def _message(given: str) -> str:
    return given.removeprefix("Value error, ")
