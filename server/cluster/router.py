"""Routes requests to replicas by their backlog."""

# pyright: reportMissingImports=false

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence

from ray.serve.request_router import PendingRequest, RequestRouter, RunningReplica

from server.cluster.messages import ForwardedRequest, replica_tag

ASKED = 3
"""Replicas that are asked for their work, of all that there are; ``benchmarks/router_sim.py``
compares values.
"""
PATIENCE_SECONDS = 0.5  # a replica that does not answer within this time ranks last


class LeastWork(RequestRouter):
    """Asks three replicas at random for the work they have left, positions × steps, at the moment
    of the choice, and takes the least. Those that have refused the request already are left out.
    Where nobody answers it is Ray Serve's own choice between those three, by their requests.

    A request for a trajectory goes to the replica that holds it.
    """

    async def choose_replicas(
        self,
        candidate_replicas: list[RunningReplica],
        pending_request: PendingRequest | None = None,
    ) -> list[list[RunningReplica]]:
        """See ``RequestRouter``: ranks of replicas, the best first."""
        request = pending_request.args[0] if pending_request and pending_request.args else None
        if not isinstance(request, ForwardedRequest):
            return [random.sample(candidate_replicas, min(2, len(candidate_replicas)))]
        by_tag = {replica_tag(r.replica_id.unique_id): r for r in candidate_replicas}
        if request.owner_tag in by_tag:
            return [[by_tag[request.owner_tag]]]
        fresh = [r for tag, r in by_tag.items() if tag not in request.refused]
        some = random.sample(fresh or candidate_replicas, min(ASKED, len(fresh or by_tag)))
        if len(some) == 1:
            return [some]
        known = await asyncio.gather(*(_backlog(replica) for replica in some))
        return ranked(some, known)


def ranked(
    replicas: Sequence[RunningReplica], backlogs: Sequence[int | None]
) -> list[list[RunningReplica]]:
    """Replicas by their backlogs, each a rank of its own; those without one are the last rank."""
    told = [(b, i) for i, b in enumerate(backlogs) if b is not None]
    ranks = [[replicas[i]] for _, i in sorted(told)]
    silent = [r for r, b in zip(replicas, backlogs, strict=True) if b is None]
    return [*ranks, silent] if silent else ranks


async def _backlog(replica: RunningReplica) -> int | None:
    """Backlog of a replica; None if it does not answer."""
    try:
        # the call by which Ray Serve itself collects what replicas report, every ten seconds
        asked = replica._actor_handle.record_routing_stats.remote()
        return (await asyncio.wait_for(asked, PATIENCE_SECONDS))["backlog"]
    except Exception:  # dead, starting or stuck: whatever it is, it is not this request's fault
        return None
