"""A kernel that refuses the network, so that a headless run shows that the course needs none."""

from __future__ import annotations

import sys
from typing import Any

_LOCAL = ("127.", "localhost", "::1", "0.0.0.0")


def refuse_network() -> None:
    """From now on, until the process ends, Python's sockets reach this machine only; all else raises `OSError`."""
    sys.addaudithook(_audit)


def _audit(event: str, arguments: tuple[Any, ...]) -> None:
    if event in ("socket.connect", "socket.sendto", "socket.sendmsg"):
        address = arguments[1]
        host = address[0] if isinstance(address, tuple) and address else ""
    elif event == "socket.getaddrinfo":
        host = arguments[0] or ""
    else:
        return
    name = host.decode() if isinstance(host, bytes) else str(host)
    if name and not name.startswith(_LOCAL):
        raise OSError(f"the course uses no network, but something here wants to reach {name!r}")
