"""Addresses that the server listens on, and the names that they have in ``Host`` headers."""

from __future__ import annotations

import ipaddress
import socket

LOOPBACK = frozenset({"localhost", "127.0.0.1", "[::1]"})


def is_loopback(host: str) -> bool:
    """Whether an address, or ``localhost``, is reached from this machine alone."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host.lower() == "localhost"
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return (mapped or address).is_loopback


def url_host(host: str) -> str:
    """A name or address as it stands in URLs and ``Host`` headers."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host.lower()
    return f"[{address}]" if address.version == 6 else str(address)


def listening(host: str, port: int) -> socket.socket:
    """A socket whose connections send at once. Asyncio sees to that only for sockets that it made
    itself; without it the body of an answer waits for the client to acknowledge the headers, some
    40 ms.

    Raises:
        OSError: the address cannot be listened on.
    """
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except UnicodeError:
        raise OSError(0, "not a name that can be looked up") from None
    family, *_, address = min(found, key=lambda each: each[0] != socket.AF_INET)
    both = host == "::" and socket.has_dualstack_ipv6()
    try:
        listener = socket.create_server(
            address[:2], family=family, backlog=2048, dualstack_ipv6=both
        )
    except OSError as error:
        if family == socket.AF_INET6 and not _speaks_ipv6():
            raise OSError(error.errno, "this machine has no IPv6") from None
        raise
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listener


def _speaks_ipv6() -> bool:
    """Whether any address of that family can be bound."""
    try:
        with socket.socket(socket.AF_INET6, socket.SOCK_STREAM) as probe:
            probe.bind(("::", 0))
    except OSError:
        return False
    return True
