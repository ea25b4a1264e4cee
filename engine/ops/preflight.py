"""Refuse at the start what would otherwise hurt during a sale. Each refusal says how to mend it."""

from __future__ import annotations

import asyncio
import errno
import ipaddress
import re
import socket
from urllib.parse import urlsplit

import asyncpg
import redis

from engine.infra.errors import Misconfigured
from engine.infra.settings import Settings, require_secrets
from engine.ops.binaries import POSTGRES_MIN, REDIS_MIN

VALKEY_MIN = (8, 0)
REACH_SECONDS = 5.0

Address = tuple[str, int] | tuple[str, int, int, int] | tuple[int, bytes]


def access(settings: Settings) -> None:
    """Refuse guessable secrets, and a service open to everybody on a network."""
    require_secrets(settings)
    if settings.auth == "open" and not _is_loopback(settings.host):
        raise Misconfigured(
            f"AUTH=open trusts everybody and HOST={settings.host} is not loopback: "
            "set HOST=127.0.0.1, or AUTH=required with JWT_SECRET and HMAC_SECRET"
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


def postgres(url: str) -> None:
    """Refuse a DATABASE_URL that does not answer, or is too old."""
    try:
        version = asyncio.run(_postgres_major(url))
    except (OSError, ValueError, asyncpg.PostgresError, asyncpg.InterfaceError) as wrong:
        raise Misconfigured(
            f"DATABASE_URL: no Postgres at {address(url)} ({_reason(wrong, url)}): "
            "start it, mend the URL, or unset it to use the embedded one"
        ) from None
    if version < POSTGRES_MIN:
        raise Misconfigured(
            f"DATABASE_URL: Postgres {version} at {address(url)} is too old, "
            f"{POSTGRES_MIN} or newer is needed: upgrade it, or unset DATABASE_URL"
        )


def bouncer(url: str) -> list[str]:
    """Refuse a REDIS_URL that does not answer, is too old or forgets keys; else, warnings."""
    try:
        with redis.Redis.from_url(
            url, socket_timeout=REACH_SECONDS, socket_connect_timeout=REACH_SECONDS
        ) as client:
            try:
                said = client.info("all")
            except redis.exceptions.NoPermissionError:
                client.ping()
                said = {}
    except (OSError, ValueError, redis.exceptions.RedisError) as wrong:
        raise Misconfigured(
            f"REDIS_URL: no Redis or Valkey at {address(url)} ({_reason(wrong, url)}): "
            "start it, mend the URL, or unset it to use the embedded one"
        ) from None
    _refuse_old(url, said)
    return _refuse_evicting(url, said)


def address(url: str) -> str:
    """A URL fit to be shown: no user, no password, no options."""
    if "://" not in url:
        return "the given address"
    # Greedy to the last @: a password may hold @, / and ? that should have been escaped.
    return re.sub(r"://.*@", "://", url, flags=re.DOTALL).split("?")[0]


def _is_loopback(host: str) -> bool:
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


async def _postgres_major(url: str) -> int:
    connection = await asyncpg.connect(url, timeout=REACH_SECONDS)
    try:
        return int(connection.get_server_version().major)
    finally:
        await connection.close(timeout=REACH_SECONDS)


def _refuse_old(url: str, said: dict[str, object]) -> None:
    # Valkey calls itself Redis 7.2.4 for the sake of old clients: its own version comes first.
    name, least = ("valkey", VALKEY_MIN) if "valkey_version" in said else ("redis", REDIS_MIN)
    numbers = re.findall(r"\d+", str(said.get(f"{name}_version", "")))[:2]
    version = tuple(int(number) for number in numbers)
    if version and version < least:
        raise Misconfigured(
            f"REDIS_URL: {name} {'.'.join(numbers)} at {address(url)} is too old, Redis 7.2 or "
            "Valkey 8 is needed: upgrade it, or unset REDIS_URL"
        )


def _refuse_evicting(url: str, said: dict[str, object]) -> list[str]:
    policy = str(said.get("maxmemory_policy", ""))
    if not policy:
        return [f"REDIS_URL: {address(url)} hides its settings; see that it never evicts keys"]
    if policy != "noeviction":
        raise Misconfigured(
            f"REDIS_URL: {address(url)} has maxmemory-policy {policy} and would forget live "
            "reservations when full: CONFIG SET maxmemory-policy noeviction"
        )
    return []


def _reason(wrong: Exception, url: str) -> str:
    text = " ".join(str(wrong).split()) or type(wrong).__name__
    try:
        password = urlsplit(url).password
    except ValueError:
        return type(wrong).__name__  # a URL we cannot read may be quoted in the text
    return text.replace(password, "***") if password else text
