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

from sampler.params import MAX_STEPS
from server import config_values as values
from server.config_file import ConfigError, filed, nearest
from server.http.addresses import LOOPBACK, is_loopback, url_host
from server.http.api_keys import Keys

__all__ = ["ConfigError", "Settings"]

PREFIX = "XDLM_"
STRANGERS = ("PROMETHEUS_MULTIPROC_DIR", "prometheus_multiproc_dir", "TERMINAL_WIDTH")
"""Variables by which libraries end a process that they mean nothing to: by a folder that is not
there, by a width that is no number.
"""


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
    ] = Field(["stories"], description="bundled names and folders, with commas between")
    host: str = Field("127.0.0.1", min_length=1, description="address to listen on")
    port: int = Field(8000, ge=0, le=65535, description="port to listen on; 0 picks a free one")
    device: str = Field(
        "cpu", pattern=r"^(cpu|cuda(:\d{1,3})?)$", description="cpu, cuda or cuda:N"
    )
    dtype: Literal["auto", "float32", "bfloat16"] = Field(
        "auto", description="of the weights; auto is float32 on a CPU, bfloat16 on CUDA"
    )
    threads: int = Field(
        0, ge=0, le=1024, description="CPU threads of the model; 0 takes all cores"
    )
    tensor_parallel: int = Field(
        1, ge=1, le=1024, description="processes, or CUDA devices, that share one LLaDA"
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
    api_keys: Annotated[InstanceOf[Keys], NoDecode, BeforeValidator(values.keys)] = Field(
        Keys(), description="keys that are accepted, with commas between; none asks for none"
    )
    api_key_file: Annotated[InstanceOf[Keys], NoDecode, BeforeValidator(values.keys_of_file)] = (
        Field(Keys(), description="file of more keys, one a line; # begins a comment")
    )
    trace_endpoint: str = Field(
        "", description="OTLP collector that traces are sent to, a whole URL; none sends none"
    )
    allowed_hosts: Annotated[list[str], NoDecode, BeforeValidator(values.names)] = Field(
        [],
        description="names in the Host header that are answered, with commas between; none: "
        "those of loopback on a loopback address, else all",
    )
    rate_per_minute: int = Field(0, ge=0, description="requests for work a minute; 0 is no limit")
    key_rate_per_minute: int = Field(
        0, ge=0, description="requests for work a minute of each key; 0 is no limit"
    )
    docs: bool = Field(False, description="serve /openapi.json and /docs")

    @field_validator("*", mode="before")
    @classmethod
    def _of_its_kind(cls, given: Any, info: ValidationInfo) -> Any:
        """Values that Pydantic would take for something else, and those that mean nothing."""
        return values.of_its_kind(cls.model_fields[str(info.field_name)].annotation, given)

    @field_validator("host")
    @classmethod
    def _one_address(cls, host: str) -> str:
        if host != host.strip() or " " in host:
            raise ValueError("must hold no blanks")
        return host[1:-1] if host.startswith("[") and host.endswith("]") else host

    @field_validator("trace_endpoint")
    @classmethod
    def _whole_url(cls, endpoint: str) -> str:
        if endpoint and not values.is_whole_url(endpoint):
            raise ValueError("must be a whole URL, as http://127.0.0.1:4318/v1/traces")
        return endpoint

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.tensor_parallel > 1 and len(self.checkpoints) > 1:
            raise ValueError("tensor_parallel: is for one checkpoint, not several")
        if self.key_rate_per_minute and not self.keys:
            raise ValueError("key_rate_per_minute: is for a server that asks for keys")
        return self

    @property
    def hosts(self) -> frozenset[str]:
        """Names that the ``Host`` header may have; none allows all."""
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
    def keys(self) -> Keys:
        """All keys; without any, none is asked for."""
        return self.api_keys | self.api_key_file

    @classmethod
    def read(cls, flags: Mapping[str, Any], file: Path | None = None) -> Self:
        """Flags over the environment over a YAML file over defaults. A value that is none stops the
        start also where a better one is set elsewhere.

        Raises:
            ConfigError: a value that is none, or a file that cannot be used.
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
        """Names and values with where they are from, the least important first."""
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


def forget_strangers() -> None:
    """Take variables from this process that are none of its settings and could end it."""
    for name in STRANGERS:
        os.environ.pop(name, None)


def keep_keys_from_children() -> None:
    """Processes that are started from here on inherit no key."""
    for name in os.environ:
        if name.upper() == f"{PREFIX}API_KEYS":
            os.unsetenv(name)


def _of_field(error: ValidationError) -> str:
    """What is wrong with a field itself; nothing, where it only does not fit others."""
    return next((_message(e["msg"]) for e in error.errors() if e["loc"]), "")


def _message(given: str) -> str:
    return given.removeprefix("Value error, ")
