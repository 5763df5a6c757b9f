"""The same server as replicas on Ray Serve. Nothing outside imports this package but ``xdlm
cluster``; what imports Ray needs the extra ``[ray]``.

A request comes to the ingress, which checks keys and sizes as a single server does and forwards it
to a replica of its model. Each replica is a complete single server (``create_app``) with one
engine, called by Ray instead of through a socket, so that routes, limits and errors are those of a
single server.
"""

# no ``from __future__ import annotations``: Ray Serve reads the type of the argument of ``app``

from typing import Any

from server.cluster.settings import ClusterSettings


def app(args: ClusterSettings) -> Any:
    """The application, for ``serve run server.cluster:app FIELD=VALUE`` and Ray's config files.

    Raises:
        CheckpointError: a checkpoint is missing, or two have one name.
    """
    from server.cluster.application import application

    return application(args)
