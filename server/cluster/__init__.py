"""The same server as replicas on Ray Serve. Nothing outside imports this package but ``xdlm
cluster``; it needs the extra ``[ray]``.

A request comes to the front, which checks keys and sizes as a single server does and forwards it to
a replica of its model. Each replica is a whole single server (``create_app``) with one engine, that
is spoken to by Ray instead of by a socket; so all routes, limits and errors are the single server's
own. ``serve run server.cluster:app`` starts it.
"""

from server.cluster.build import app

__all__ = ["app"]
