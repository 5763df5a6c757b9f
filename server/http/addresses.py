"""Listening sockets, and names of addresses in ``Host`` headers."""

from __future__ import annotations

import ipaddress
import socket

LOOPBACK = frozenset({"localhost", "127.0.0.1", "[::1]"})


def is_loopback(host: str) -> bool:
    """Whether an address or ``localhost`` is reachable from this machine only."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host.lower() == "localhost"
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return (mapped or address).is_loopback


def url_host(host: str) -> str:
    """A name or address as written in URLs and ``Host`` headers."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host.lower()
    return f"[{address}]" if address.version == 6 else str(address)


def listening(host: str, port: int) -> socket.socket:
    """A listening TCP socket with TCP_NODELAY, which its connections inherit.

    Asyncio sets it only on sockets of its own; without it a response's body waits some 40 ms for
    the acknowledgement of the headers.

    Raises:
        OSError: the address cannot be bound.
    """
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except UnicodeError:
        raise OSError(0, "not a valid host name") from None
    family, *_, address = min(found, key=lambda each: each[0] != socket.AF_INET)
    both = host == "::" and socket.has_dualstack_ipv6()
    try:
        listener = socket.create_server(
            address[:2], family=family, backlog=2048, dualstack_ipv6=both
        )
    except OSError as error:
        if family == socket.AF_INET6 and not _has_ipv6():
            raise OSError(error.errno, "this machine has no IPv6") from None
        raise
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listener


def _has_ipv6() -> bool:
    """Whether an IPv6 address can be bound."""
    try:
        with socket.socket(socket.AF_INET6, socket.SOCK_STREAM) as probe:
            probe.bind(("::", 0))
    except OSError:
        return False
    return True
