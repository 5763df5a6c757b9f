"""Plan of a sweep: cells of steps x mixing ratio x load, each repeated."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from loadtest.answer_reader import Kind

ROUTES: dict[Kind, str] = {
    "completions": "/v1/completions",
    "chat": "/v1/chat/completions",
    "trajectories": "/v1/diffusion/trajectories",
    "images": "/v1/images/generations",
}


@dataclass(frozen=True)
class Load:
    """How requests arrive: ``value`` at a time (``closed``) or per second (``open``)."""

    loop: Literal["closed", "open"]
    value: float

    @property
    def name(self) -> str:
        """Part of the names of cells."""
        return f"{'c' if self.loop == 'closed' else 'r'}{self.value:g}"

    @property
    def words(self) -> str:
        """Text in reports."""
        return f"{self.value:g} at a time" if self.loop == "closed" else f"{self.value:g} a second"


@dataclass(frozen=True)
class Setting:
    """Parameters of the requests of a cell; None leaves the choice to the server."""

    steps: int | None
    mixing_ratio: float | None

    @property
    def variant(self) -> str:
        """The parameters besides steps, as text; empty if there are none."""
        return "" if self.mixing_ratio is None else f"k = {self.mixing_ratio:g}"

    @property
    def name(self) -> str:
        """Part of the names of cells."""
        ratio = "" if self.mixing_ratio is None else f"-k{self.mixing_ratio:g}"
        return f"s{self.steps if self.steps is not None else 'default'}{ratio}"

    @property
    def label(self) -> str:
        """The step count as text."""
        return "default" if self.steps is None else str(self.steps)

    @property
    def phrase(self) -> str:
        """The step count as text in a sentence."""
        return "default settings" if self.steps is None else f"{self.steps} steps"

    @property
    def words(self) -> str:
        """All parameters as text."""
        return ", ".join(part for part in (self.phrase, self.variant) if part)


@dataclass(frozen=True)
class Planned:
    """One cell of the plan: a setting under a load, in one repeat."""

    setting: Setting
    load: Load
    repeat: int

    @property
    def name(self) -> str:
        """Name of the cell and of its file."""
        return f"{self.setting.name}_{self.load.name}_{self.repeat}"


@dataclass(frozen=True)
class Workload:
    """The requests of a run.

    Attributes:
        kind: of the requests; it selects the route.
        model: name; None sends none.
        prompts: used in turn; names of classes for images.
        max_tokens: of each answer; not sent for images.
        fields: further fields of every body.
        seed: of the run: request n of a repeat has the same prompt and seed in every cell.
    """

    kind: Kind
    model: str | None
    prompts: tuple[str, ...]
    max_tokens: int
    fields: Mapping[str, Any]
    seed: int = 0

    def prompt(self, number: int) -> int:
        """Index of the prompt of request ``number``."""
        return number % len(self.prompts)

    def seed_of(self, repeat: int, number: int) -> int:
        """The seed of a request."""
        return 1_000_000 * self.seed + 100_000 * repeat + number

    def body(self, setting: Setting, repeat: int, number: int) -> dict[str, Any]:
        """The JSON body of a request."""
        prompt = self.prompts[self.prompt(number)]
        body: dict[str, Any] = {"seed": self.seed_of(repeat, number)}
        if self.model is not None:
            body["model"] = self.model
        if self.kind == "chat":
            body["messages"] = [{"role": "user", "content": prompt}]
        else:
            body["prompt"] = prompt
        if self.kind != "images":
            body["max_tokens"] = self.max_tokens
        if self.kind != "trajectories":
            body["stream"] = True
        if self.kind in ("completions", "chat"):
            body["stream_options"] = {"include_usage": True}
        for name in ("steps", "mixing_ratio"):
            if (value := getattr(setting, name)) is not None:
                body[name] = value
        return {**body, **self.fields}


@dataclass(frozen=True)
class Plan:
    """All cells of a run, and the durations of each.

    Attributes:
        warmup: seconds of the same load before the measured window; its requests do not count.
        duration: seconds of the measured window.
        drain: seconds after the window in which requests may end before the client gives them up.
        timeout: limit of one request in seconds.
        max_requests: limit of the requests of one cell.
    """

    workload: Workload
    settings: tuple[Setting, ...]
    loads: tuple[Load, ...]
    repeats: int
    warmup: float
    duration: float
    drain: float
    timeout: float
    max_requests: int

    def cells(self) -> list[Planned]:
        """All cells. Each repeat shuffles them anew, so that changes of the machine over time do
        not favour a setting.
        """
        ordered = []
        for repeat in range(self.repeats):
            cells = [Planned(s, load, repeat) for s in self.settings for load in self.loads]
            random.Random(f"{self.workload.seed}/{repeat}").shuffle(cells)
            ordered += cells
        return ordered

    @property
    def seconds(self) -> tuple[float, float]:
        """Least and greatest duration of all cells: without drains, and with full ones."""
        least = len(self.cells()) * (self.warmup + self.duration)
        return least, least + len(self.cells()) * self.drain

    def arrivals(self, load: Load, repeat: int) -> list[float]:
        """When the requests of an open loop are due: a Poisson process from the warm-up to the end
        of the window. It is the same for all settings.
        """
        chance = random.Random(f"{self.workload.seed}/{load.name}/{repeat}")
        due: list[float] = []
        at = -self.warmup + chance.expovariate(load.value)
        while at < self.duration and len(due) < self.max_requests:
            due.append(at)
            at += chance.expovariate(load.value)
        return due

    def to_json(self) -> dict[str, Any]:
        """JSON of the run's header."""
        return asdict(self)

    @classmethod
    def read(cls, stored: dict[str, Any]) -> Plan:
        """The plan in a run's header."""
        workload = stored["workload"]
        return cls(
            **{
                **stored,
                "workload": Workload(**{**workload, "prompts": tuple(workload["prompts"])}),
                "settings": tuple(Setting(**s) for s in stored["settings"]),
                "loads": tuple(Load(**load) for load in stored["loads"]),
            }
        )
