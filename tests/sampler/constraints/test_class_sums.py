"""Classes of rows of logits, against sums over their tokens one by one."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from sampler.constraints.class_sums import LEAST, ClassReader
from tests.sampler.constraints.languages import SIZE, TOKENS

ROWS = 9


def read(logits: torch.Tensor, temperature: float, parts: int = 1):
    """Read the rows in ``parts`` chunks."""
    u = torch.rand(ROWS, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    sharpness = None if temperature in (0, 1) else torch.full((ROWS,), 1 / temperature)
    reader = ClassReader(TOKENS, slice(0, ROWS), u, temperature == 0, sharpness)
    for chunk in logits.chunk(parts):
        reader.see(chunk, may_ask=True)
    return reader.read()


@pytest.mark.parametrize("parts", [1, 3])
@pytest.mark.parametrize("temperature", [0.0, 0.3, 1.0, 2.0])
def test_masses_tokens_and_probabilities_of_classes(temperature: float, parts: int) -> None:
    logits = 5 * torch.randn(ROWS, SIZE, generator=torch.Generator().manual_seed(1))
    logits[2, 4] = -torch.inf
    found = read(logits, temperature, parts)
    raw = logits.double().numpy().clip(min=LEAST)
    log_p = raw - np.logaddexp.reduce(raw, axis=1)[:, None]
    for c in range(int(TOKENS.class_of.max()) + 1):
        own = np.flatnonzero(TOKENS.class_of == c)
        model = np.logaddexp.reduce(log_p[:, own], axis=1)
        np.testing.assert_allclose(found.model[:, c], model, rtol=1e-5, atol=1e-5)
        if temperature == 0:
            assert (found.token[:, c] == own[raw[:, own].argmax(1)]).all()
        else:
            drawn = (raw[:, own] / temperature).clip(min=LEAST)
            drawn = np.logaddexp.reduce(drawn, axis=1)
            np.testing.assert_allclose(found.mass[:, c], drawn, rtol=1e-5, atol=1e-5)
        assert np.isin(found.token[:, c], own).all()
        at_token = log_p[np.arange(ROWS), found.token[:, c]]
        np.testing.assert_allclose(found.log_p[:, c], at_token, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("temperature", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_rows_that_are_not_numbers_leave_the_others_alone(value: float, temperature: float) -> None:
    logits = torch.randn(ROWS, SIZE, generator=torch.Generator().manual_seed(2))
    broken = logits.clone()
    broken[4] = value
    expected, found = read(logits, temperature), read(broken, temperature)
    others = np.arange(ROWS) != 4
    for name in ("mass", "model", "token", "log_p"):
        np.testing.assert_array_equal(getattr(found, name)[others], getattr(expected, name)[others])
