"""Official decoding runs of SDAR, LLaDA2 and Fast-dLLM v2, and those of engines that serve them,
state by state, on kept keys and values.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import pytest

from sampler.logits.row_requests import RowQuery
from sampler.samplers.threshold import Threshold
from tests.support.block_runs import BlockRun, is_greedy, names_of_runs, share_of
from tests.support.effort import some

GREEDY = [
    pytest.param(name, case, id=f"{name} {case}")
    for name, case, meta in names_of_runs()
    if is_greedy(meta) and not meta.get("penalty_lambda")
]
DRAWN = [
    pytest.param(name, case, id=f"{name} {case}")
    for name, case, meta in names_of_runs()
    if not is_greedy(meta) and not meta.get("top_k")
]
"""``top_k`` is not a parameter here."""


@pytest.mark.parametrize(("name", "case"), some(GREEDY, 2))
def test_official_runs_state_by_state(tmp_path, name, case):
    run = BlockRun.of(tmp_path / "checkpoint", name, case)
    results = run.repeated()
    if run.meta["sampler"] == "sglang":  # it takes a step more where edits are over
        results = [r for r in results if len(r.change.rows)]
    found = run.states(results)
    # a step that edits nothing ends a block; where there are no edits it is not taken
    edits = "edit_threshold" in run.meta and run.meta["sampler"] == "hf"
    expected = [(b, after) for b, before, after in run.steps if edits or before != after]
    assert len(expected) <= len(found)
    for state, (block, after) in zip(found, expected, strict=False):
        assert state[block].tolist() == after


@dataclass(frozen=True)
class Redrawn(Threshold):
    """Draws the tokens of an official run: each uniform lies in the middle of that token's share of
    the distribution that the official code drew from.
    """

    run: BlockRun | None = None
    taken: list[int] = field(default_factory=list)

    def query(self, layout, tokens, proposal, rows) -> RowQuery:
        asked = super().query(layout, tokens, proposal, rows)
        u = asked.u.clone()
        assert self.run is not None
        if (step := len(self.taken)) < len(self.run.steps):
            block, before, _ = self.run.steps[step]
            if tokens.view(-1, len(before))[block].tolist() == before:
                self.taken.append(step)
                for row, position in enumerate(rows.at.tolist()):
                    if position // len(before) == block:
                        u[row] = self.uniform(step, position % len(before), before)
        return replace(asked, u=u)

    def uniform(self, step: int, place: int, before: list[int]) -> float:
        assert self.run is not None
        p, tensors = self.run.probabilities(step), self.run.tensors
        drawn = tensors["step_x0"] if "step_x0" in tensors else tensors["step_x1"]
        if len(p) < len(before):  # a part of the block
            place -= before.index(self.run.mask_id) // len(p) * len(p)
        if not 0 <= place < len(p):
            return 0.5
        token = int(drawn[step, place])
        return share_of(p[place], token)


@pytest.mark.parametrize(("name", "case"), DRAWN)
def test_official_runs_with_a_temperature_state_by_state(tmp_path, name, case):
    """The confidence is that of the distribution after temperature and top-p."""
    run = BlockRun.of(tmp_path / "checkpoint", name, case)
    results = run.repeated(Redrawn(run.network.config.vocab_size, run.mask_id, run=run))
    found = run.states(results)
    edits = "edit_threshold" in run.meta
    expected = [(b, after) for b, before, after in run.steps if edits or before != after]
    assert 3 <= len(expected) <= len(found)
    for state, (block, after) in zip(found, expected, strict=False):
        assert state[block].tolist() == after


def test_runs_of_every_rule_are_drawn():
    metas = [meta for name, case, meta in names_of_runs() if [name, case] in drawn_names()]
    assert {meta.get("strategy") for meta in metas} >= {
        "static",
        "dynamic",
        "sequential",
        "entropy",
    }
    assert any("edit_threshold" in meta for meta in metas)
    assert any(meta.get("top_p", 1.0) not in (None, 1.0) for meta in metas)


def drawn_names() -> list[list[object]]:
    return [list(param.values) for param in DRAWN]
