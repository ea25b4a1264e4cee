"""The doorstep: the address we listen on, who may come in, and how a URL is shown.

Each refusal says how to mend it.
"""

from __future__ import annotations

import errno
import ipaddress
import re
import resource
import socket
from urllib.parse import urlsplit

from engine.infra.errors import Misconfigured
from engine.infra.lobby import LINGERING_MAX
from engine.infra.settings import Settings, require_secrets
from engine.membership.receipts import Verifier
from engine.ops.findings import Finding

SEATS_MAX = 16_384  # connections of a worker unless told: each takes some KiB
FILES_WANTED = 65_536
FILES_OF_OURS = 64  # logs, pools of Redis, the loop

Address = tuple[str, int] | tuple[str, int, int, int] | tuple[int, bytes]


def access(settings: Settings) -> None:
    """Refuse guessable secrets, and a service open to everybody on a network."""
    require_secrets(settings)
    found = reach(settings)
    if found.refuses:
        raise Misconfigured(f"{found.found}: {found.mend}")


def reach(settings: Settings) -> Finding:
    """Who can reach us, and whether that is who may."""
    if settings.auth == "open" and not is_loopback(settings.host):
        return Finding(
            "access",
            "fail",
            f"AUTH=open trusts everybody and HOST={settings.host} is not loopback",
            "set HOST=127.0.0.1, or AUTH=required with JWT_SECRET and HMAC_SECRET",
            refuses=True,
        )
    return Finding("access", "ok", f"AUTH={settings.auth} on {settings.host}")


def receipts(settings: Settings) -> Finding:
    """Whether a receipt of a membership proves anything, and whether it can be checked at all."""
    check, verifier = "RECEIPT_VERIFIER", settings.receipt_verifier
    try:
        is_trusting = Verifier.of(settings).is_trusting
    except Misconfigured as wrong:
        return Finding(check, "fail", verifier, str(wrong), refuses=True)
    if is_trusting and settings.auth == "required":
        return Finding(check, "ok", "none: a shop's key vouches for what it mints, nobody else may")
    return Finding(check, "ok", verifier)


def raise_files_max() -> int:
    """Allow this process as many open files as it may allow itself; how many that are."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = FILES_WANTED if hard == resource.RLIM_INFINITY else hard
    if soft != resource.RLIM_INFINITY and soft < wanted:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        except (OSError, ValueError):  # some kernels have a lower limit of their own
            return soft
        return wanted
    return soft


def seats(settings: Settings, files_max: int) -> int:
    """How many connections one worker takes: MAX_CONNECTIONS, or what its open files allow."""
    ours = FILES_OF_OURS + settings.pool_size + LINGERING_MAX
    room = files_max - ours if files_max >= 0 else SEATS_MAX  # -1: no limit
    if settings.max_connections > room or room < 1:
        raise Misconfigured(
            f"{files_max:,} open files a process are too few for MAX_CONNECTIONS="
            f"{settings.max_connections}: ulimit -n {max(settings.max_connections + ours, 4_096)}"
        )
    return settings.max_connections or min(room, SEATS_MAX)


def proxies(settings: Settings) -> Finding:
    """Whether clients behind a proxy would all count as one."""
    if is_loopback(settings.host) or settings.trusted_proxies:
        return Finding("proxies", "ok", settings.trusted_proxies or "none but this machine's own")
    return Finding(
        "proxies",
        "warn",
        f"HOST={settings.host} and TRUSTED_PROXIES is empty: all who come through one balancer "
        "share the limits of one address",
        "name your balancers in TRUSTED_PROXIES, or 127.0.0.1 if clients reach us themselves",
    )


def door(host: str, port: int) -> socket.socket:
    """Bind the address, never listen, or refuse; closing the socket gives it up.

    Holding it keeps a second `make run` out from the first moment, while our own workers, which
    ask for SO_REUSEPORT as this socket does, may still bind and listen. Port 0 takes a free one.
    """
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except socket.gaierror:
        raise Misconfigured(f"HOST={host} is no address: try HOST=127.0.0.1") from None
    family, _, _, _, address = found[0]
    try:
        if port:
            # Without SO_REUSEPORT: with it, another server of ours would not be noticed.
            _bind(family, address, socket.SO_REUSEADDR).close()
        try:
            return _bind(family, address, socket.SO_REUSEPORT)
        except OSError:  # what keeps it out is only the leavings of closed connections
            return _bind(family, address, socket.SO_REUSEPORT, socket.SO_REUSEADDR)
    except OSError as wrong:
        raise Misconfigured(_closed_door(wrong, host, port)) from None


def masked(url: str) -> str:
    """A URL fit to be shown: with its user, without passwords."""
    if "://" not in url:
        return "the given address"
    # Greedy to the last @: a password may hold @, / and ? that should have been escaped.
    scheme, _, rest = url.partition("://")
    person, at, place = rest.rpartition("@")
    user = re.split(r"[:/?]", person)[0]
    hidden = ":***" if user != person else ""
    place = re.sub(r"(\w*password=)[^&]*", r"\1***", place, flags=re.IGNORECASE)
    return f"{scheme}://{user}{hidden}{at}{place}"


def reason(wrong: Exception, url: str) -> str:
    """An error's words without the password of the URL."""
    text = " ".join(str(wrong).split()) or type(wrong).__name__
    try:
        password = urlsplit(url).password
    except ValueError:
        return type(wrong).__name__  # a URL we cannot read may be quoted in the text
    return text.replace(password, "***") if password else text


def is_loopback(host: str) -> bool:
    """Whether all that a host's name stands for is this machine."""
    try:
        found = socket.getaddrinfo(host or "0.0.0.0", None, type=socket.SOCK_STREAM)
    except (socket.gaierror, UnicodeError):
        return False
    return all(ipaddress.ip_address(str(one[4][0]).split("%")[0]).is_loopback for one in found)


def _bind(family: int, address: Address, *options: int) -> socket.socket:
    bound = socket.socket(family, socket.SOCK_STREAM)
    try:
        for option in options:
            bound.setsockopt(socket.SOL_SOCKET, option, 1)
        bound.bind(address)
    except OSError:
        bound.close()
        raise
    return bound


def _closed_door(wrong: OSError, host: str, port: int) -> str:
    if wrong.errno == errno.EADDRINUSE:
        return (
            f"{host}:{port} is taken: stop what listens there, or choose another: PORT={port + 1}"
        )
    if wrong.errno == errno.EACCES:
        return f"PORT={port} needs rights that we lack: choose one above 1024"
    return f"HOST={host}: {wrong.strerror}: choose an address of this machine"
