"""What other systems call our settings, and addresses as they write them."""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import parse_qsl, quote, urlencode, urlsplit

from engine.infra.errors import Misconfigured

ORIGINS = ("CLIENT_URL", "FRONTEND_URL")  # CORS_ORIGINS
DATABASE = ("DB_HOST", "DB_PORT", "DB_NAME", "DB_USER", "DB_PASSWORD", "DB_SSL")  # DATABASE_URL
SAME = {
    "PKPASS_CERTIFICATE": "WALLET_CERTIFICATE",
    "PKPASS_KEY": "WALLET_KEY",
    "PKPASS_PASSPHRASE": "WALLET_KEY_PASSPHRASE",
    "REFORGE_FROM_EMAIL": "MAIL_FROM",
    "REFORGE_BASE_URL": "PUBLIC_URL",
}


def ours(environ: Mapping[str, str]) -> dict[str, str]:
    """An environment with our names for what it says in others' alone: ours count first."""
    env = dict(environ)
    if not env.get("DATABASE_URL") and env.get("DB_HOST"):
        env["DATABASE_URL"] = database_from_parts(env)
    for theirs, name in SAME.items():
        env[name] = env.get(name) or env.get(theirs, "")
    pages = [env[name] for name in ORIGINS if env.get(name)]
    env["CORS_ORIGINS"] = env.get("CORS_ORIGINS") or ",".join(pages)
    return env


def origin(text: str) -> bytes:
    """Scheme, host and port as a browser writes them; a URL's path is left out."""
    try:
        parts = urlsplit(text.lower())
        host, port = parts.hostname or "", parts.port
    except ValueError:
        host, port = "", None
    if parts.scheme not in ("http", "https") or not host or "*" in host or parts.username:
        raise Misconfigured(f"CORS_ORIGINS={text}: want origins like https://shop.example, exactly")
    host = f"[{host}]" if ":" in host else host
    usual = port in (None, 443 if parts.scheme == "https" else 80)
    return f"{parts.scheme}://{host}{'' if usual else f':{port}'}".encode()


def database_from_parts(env: Mapping[str, str]) -> str:
    """`DB_HOST DB_PORT DB_NAME DB_USER DB_PASSWORD DB_SSL` as one URL."""
    user = quote(env.get("DB_USER", "postgres"), safe="")
    password = quote(env.get("DB_PASSWORD", ""), safe="")
    ssl = "?sslmode=require" if env.get("DB_SSL", "").lower() in ("1", "true", "require") else ""
    who = f"postgresql://{user}{':' + password if password else ''}"
    host, port, name = env["DB_HOST"], env.get("DB_PORT", "5432"), env.get("DB_NAME", "postgres")
    if host.startswith("/"):  # the folder of a Unix socket
        return f"{who}@/{name}?host={quote(host)}&port={port}"
    return f"{who}@{host}:{port}/{name}{ssl}"


def from_prisma(url: str) -> dict[str, str]:
    """Take Prisma's own parameters out of a URL: the driver would refuse them."""
    ours: dict[str, str] = {}
    theirs = []
    for name, value in parse_qsl(urlsplit(url).query):
        match name:
            case "schema":
                ours["schema"] = value
            case "connection_limit":
                ours["pool_size"] = value
            case "pgbouncer":
                ours["pgbouncer"] = "1" if value.lower() in ("true", "1") else "0"
            case "pool_timeout" | "socket_timeout" | "statement_cache_size" | "connect_timeout":
                pass  # asyncpg settles these itself
            case "sslaccept":
                pass
            case _:
                theirs.append((name, value))
    # Not by urlunsplit: some versions forget slashes of postgresql:///sale?host=/run/postgresql.
    address, query = url.partition("?")[0], urlencode(theirs, safe="/")
    ours["database_url"] = f"{address}?{query}" if query else address
    return ours
