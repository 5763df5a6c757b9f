"""How long OpenMP's threads wait for work before they sleep; imported before torch.

By default libgomp has them spin for milliseconds. Where a core is shared, a thread then spins
through the time slice that its neighbour needs, and a step takes many times as long. A tenth of a
millisecond covers the gaps between two operations of a step.
"""

from __future__ import annotations

import os

SPINS = 10_000

if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", str(SPINS))
