"""What Redis keeps, and as many of its commands as the scripts use.

The scripts themselves are the real ones, run by Lua 5.1. A reply is as Redis gives it to a script:
nil becomes false, a number in an argument becomes text. `test_keyspace_matches.py` runs
the same scripts on a real server and compares.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import redis.exceptions
from lupa.lua51 import LuaRuntime, lua_type

Value = bytes | dict[bytes, bytes] | dict[bytes, float]


class Keyspace:
    """The data of one server. A sorted set is a dict of floats; `now_ms` is its clock."""

    def __init__(self, now_us: Callable[[], int], expired: Callable[[bytes], object]) -> None:
        self.now_us = now_us
        self.expired = expired  # is told of each key that ran out
        self.data: dict[bytes, Any] = {}
        self.deadlines: dict[bytes, int] = {}  # in ms

    def copy(self) -> tuple[dict[bytes, Any], dict[bytes, int]]:
        """A snapshot."""
        data = {k: dict(v) if isinstance(v, dict) else v for k, v in self.data.items()}
        return data, dict(self.deadlines)

    def restore(self, snapshot: tuple[dict[bytes, Any], dict[bytes, int]]) -> None:
        """Be as it was then; what ran out since is gone without a word."""
        self.data, self.deadlines = snapshot[0], snapshot[1]
        now_ms = self.now_us() // 1000
        for key in [k for k, due in self.deadlines.items() if due <= now_ms]:
            del self.data[key], self.deadlines[key]

    def clear(self) -> None:
        self.data.clear()
        self.deadlines.clear()

    def find(self, key: bytes, kind: type | None = None) -> Any:
        due = self.deadlines.get(key)
        if due is not None and due <= self.now_us() // 1000:
            del self.data[key], self.deadlines[key]
            self.expired(key)
        found = self.data.get(key)
        if found is not None and kind is not None and not isinstance(found, kind):
            raise redis.exceptions.ResponseError("WRONGTYPE a key holds another kind of value")
        return found

    def make(self, key: bytes) -> dict[bytes, Any]:
        found: dict[bytes, Any] | None = self.find(key, dict)
        if found is None:
            found = self.data[key] = {}
        return found

    def drop(self, key: bytes) -> int:
        self.deadlines.pop(key, None)
        return int(self.data.pop(key, None) is not None)

    def call(self, name: bytes, *args: bytes) -> Any:
        """One command; its reply as a client gets it."""
        return _COMMANDS[name.upper()](self, *args)


def _hmget(ks: Keyspace, key: bytes, *fields: bytes) -> list[Any]:
    found = ks.find(key, dict) or {}
    return [found.get(field) for field in fields]


def _hset(ks: Keyspace, key: bytes, *pairs: bytes) -> int:
    if not pairs or len(pairs) % 2:
        raise redis.exceptions.ResponseError("ERR wrong number of arguments for 'hset' command")
    found = ks.make(key)
    before = len(found)
    found.update(zip(pairs[::2], pairs[1::2], strict=True))
    return len(found) - before


def _hincrby(ks: Keyspace, key: bytes, field: bytes, by: bytes) -> int:
    found = ks.make(key)
    try:
        value = int(found.get(field, b"0")) + int(by)
    except ValueError:
        raise redis.exceptions.ResponseError("ERR hash value is not an integer") from None
    found[field] = b"%d" % value
    return value


def _hdel(ks: Keyspace, key: bytes, *fields: bytes) -> int:
    found = ks.find(key, dict)
    if found is None:
        return 0
    gone = sum(found.pop(field, None) is not None for field in fields)
    if not found:
        ks.drop(key)
    return gone


def _hscan(ks: Keyspace, key: bytes, cursor: bytes, *rest: bytes) -> list[Any]:
    flat: list[bytes] = []
    for field, value in (ks.find(key, dict) or {}).items():
        flat += (field, value)
    return [b"0", flat]


def _set(ks: Keyspace, key: bytes, value: bytes, *options: bytes) -> str:
    ks.find(key)
    ks.data[key] = value
    ks.deadlines.pop(key, None)
    words = [option.upper() for option in options]
    if words:
        ms = int(words[1]) * (1000 if words[0] == b"EX" else 1)
        if ms <= 0:
            raise redis.exceptions.ResponseError("ERR invalid expire time in 'set' command")
        ks.deadlines[key] = ks.now_us() // 1000 + ms
    return "OK"


def _setbit(ks: Keyspace, key: bytes, offset: bytes, bit: bytes) -> int:
    found = bytearray(ks.find(key, bytes) or b"")
    byte, mask = int(offset) // 8, 0x80 >> int(offset) % 8
    found.extend(b"\0" * (byte + 1 - len(found)))
    before = int(found[byte] & mask > 0)
    found[byte] = found[byte] | mask if bit == b"1" else found[byte] & ~mask
    ks.data[key] = bytes(found)
    return before


def _bitcount(ks: Keyspace, key: bytes) -> int:
    return int.from_bytes(ks.find(key, bytes) or b"").bit_count()


def _hgetall(ks: Keyspace, key: bytes) -> list[bytes]:
    return [part for pair in (ks.find(key, dict) or {}).items() for part in pair]


def _expire(ks: Keyspace, key: bytes, seconds: bytes) -> int:
    if ks.find(key) is None:
        return 0
    ks.deadlines[key] = ks.now_us() // 1000 + int(seconds) * 1000
    return 1


def _zadd(ks: Keyspace, key: bytes, score: bytes, member: bytes) -> int:
    found = ks.make(key)
    new = member not in found
    found[member] = float(score)
    return int(new)


def _zrangebyscore(ks: Keyspace, key: bytes, low: bytes, high: bytes, *rest: bytes) -> list[bytes]:
    found = ks.find(key, dict) or {}
    least, most = float(low), float(high)
    order = sorted((score, member) for member, score in found.items() if least <= score <= most)
    members = [member for _, member in order]
    if rest:  # LIMIT offset count
        first, count = int(rest[1]), int(rest[2])
        members = members[first : first + count]
    return members


def _time(ks: Keyspace) -> list[bytes]:
    seconds, us = divmod(ks.now_us(), 1_000_000)
    return [b"%d" % seconds, b"%d" % us]


_COMMANDS: dict[bytes, Callable[..., Any]] = {
    b"HMGET": _hmget,
    b"HGET": lambda ks, key, field: (ks.find(key, dict) or {}).get(field),
    b"HSET": _hset,
    b"HINCRBY": _hincrby,
    b"HDEL": _hdel,
    b"HEXISTS": lambda ks, key, field: int(field in (ks.find(key, dict) or {})),
    b"HVALS": lambda ks, key: list((ks.find(key, dict) or {}).values()),
    b"HSCAN": _hscan,
    b"HKEYS": lambda ks, key: list(ks.find(key, dict) or {}),
    b"HLEN": lambda ks, key: len(ks.find(key, dict) or {}),
    b"HGETALL": _hgetall,
    b"GET": lambda ks, key: ks.find(key, bytes),
    b"SET": _set,
    b"SETBIT": _setbit,
    b"BITCOUNT": _bitcount,
    b"DEL": lambda ks, *keys: sum(ks.drop(key) for key in keys if ks.find(key) is not None),
    b"EXISTS": lambda ks, *keys: sum(ks.find(key) is not None for key in keys),
    b"EXPIRE": _expire,
    b"ZADD": _zadd,
    b"ZRANGEBYSCORE": _zrangebyscore,
    b"ZREM": _hdel,
    b"TIME": _time,
    b"PUBLISH": lambda ks, channel, message: 0,  # nobody listens here
}

# ── Lua ──────────────────────────────────────────────────────────────────────────────────────


class Scripts:
    """Lua 5.1 as a Redis has it: `redis.call`, `cmsgpack`, KEYS and ARGV."""

    def __init__(self) -> None:
        self._lua = LuaRuntime(encoding=None, register_eval=False, register_builtins=False)
        self._keyspace: Keyspace | None = None
        self._compiled: dict[str, Any] = {}
        names = self._lua.globals()
        names[b"redis"] = self._lua.table_from({b"call": self._call, b"pcall": self._call})
        packing = {b"unpack": self._unpack, b"pack": self._pack}
        names[b"cmsgpack"] = self._lua.table_from(packing)

    def run(self, keyspace: Keyspace, source: str, keys: list[bytes], argv: list[bytes]) -> Any:
        """Run a script on a keyspace. Raises what its commands raise."""
        script = self._compiled.get(source)
        if script is None:
            body = source.partition("\n")[2] if source.startswith("#!") else source
            text = f"return function(KEYS, ARGV) {body}\nend"
            script = self._compiled[source] = self._lua.execute(text.encode())
        self._keyspace = keyspace
        try:
            return _reply(script(self._lua.table_from(keys), self._lua.table_from(argv)))
        finally:
            self._keyspace = None

    def _call(self, name: bytes, *args: Any) -> Any:
        assert self._keyspace is not None
        given = [arg if isinstance(arg, bytes) else _text(arg) for arg in args]
        return self._to_lua(self._keyspace.call(name, *given))

    def _to_lua(self, reply: Any) -> Any:
        if reply is None:
            return False
        if isinstance(reply, list):
            return self._lua.table_from([self._to_lua(each) for each in reply])
        if isinstance(reply, str):
            return self._lua.table_from({b"ok": reply.encode()})
        return reply

    def _pack(self, numbers: Any) -> bytes:
        return msgspec.msgpack.encode([int(number) for number in numbers.values()])

    def _unpack(self, packed: bytes) -> Any:
        return self._table(msgspec.msgpack.decode(packed))

    def _table(self, value: Any) -> Any:
        if isinstance(value, str):
            return value.encode()
        return self._lua.table_from(map(self._table, value)) if isinstance(value, list) else value


def _text(number: Any) -> bytes:
    """A Lua number as an argument of a command."""
    if isinstance(number, bool) or number is None:
        raise redis.exceptions.ResponseError("ERR Lua redis lib command arguments must be strings")
    return b"%d" % number if number == int(number) else b"%.17g" % number


def _reply(value: Any) -> Any:
    """What a script returned, as Redis tells it: a list ends at its first nil."""
    if isinstance(value, bool):
        return 1 if value else None
    if isinstance(value, float):
        return int(value)
    if lua_type(value) == "table":
        found, i = [], 1
        while (each := value[i]) is not None:
            found.append(_reply(each))
            i += 1
        return found
    return value
