"""Answers of all settings to the same requests, to be compared."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from loadtest.plan import Plan, Setting
from loadtest.records import Cell, Record

SHOWN = 3
PROMPTS_TRIED = 24  # requests looked at, in order of their seeds


@dataclass(frozen=True)
class Sample:
    """One request, and its answer with each setting: a text, or an image as PNG in base64."""

    prompt: str
    seed: int
    answers: Mapping[Setting, str]


def chosen(cells: Sequence[Cell], plan: Plan, setting: Setting, most: int) -> list[Record]:
    """The answers of a setting to judge: those with the lowest seeds, each seed once.

    All settings have the same prompts and seeds, so they are compared on equal terms. The load
    does not change the answers.
    """
    names = {p.name for p in plan.cells() if p.setting == setting}
    by_seed = {
        r.seed: r for cell in cells if cell.name in names for r in cell.records if not r.failure
    }
    return [by_seed[seed] for seed in sorted(by_seed)[:most]]


def samples(cells: Sequence[Cell], plan: Plan) -> list[Sample]:
    """The first requests, of different prompts if possible, that all settings answered."""
    found = {s: {r.seed: r for r in chosen(cells, plan, s, PROMPTS_TRIED)} for s in plan.settings}
    found = {setting: records for setting, records in found.items() if records}
    if not found:
        return []
    first = next(iter(found.values()))
    common = [r for seed, r in first.items() if all(seed in records for records in found.values())]
    of_prompts = {r.prompt: r for r in reversed(common)}
    picked = sorted(common, key=lambda r: of_prompts[r.prompt] is not r)
    return [
        Sample(
            plan.workload.prompts[record.prompt],
            record.seed,
            {setting: records[record.seed].text for setting, records in found.items()},
        )
        for record in picked[:SHOWN]
    ]
