"""What is under way: messages, and the tasks that wait for them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .words import Course, Notice, Reply, Wish

KEEPER = Wish(0, 0, 0)


class Task:
    """A worker at one copy of a buyer's request or a provider's word, or at a keeper's round."""

    __slots__ = ("asked", "course", "sent_at", "title")

    def __init__(self, title: str, course: Course, asked: Wish | Notice, sent_at: int) -> None:
        self.title, self.course, self.asked, self.sent_at = title, course, asked, sent_at


class Flight:
    """One message: a request while `reply` is None, then its reply. Without a task nobody waits
    for it (a settle, or a zombie), but it still arrives."""

    __slots__ = ("arguments", "call", "reply", "sent_at", "task")

    def __init__(
        self, call: Callable[..., Reply], arguments: tuple[Any, ...], task: Task | None
    ) -> None:
        self.call, self.arguments, self.task = call, arguments, task
        self.reply: Reply | None = None
        self.sent_at = task.sent_at if task else 0

    def __str__(self) -> str:
        arguments = ", ".join(map(brief, self.arguments))
        return f"{self.call.__name__}({arguments})"


def brief(value: object) -> str:
    if isinstance(value, Wish):
        return f"r{value.rid}/b{value.buyer}x{value.quantity}{value.picks or ''}"
    if isinstance(value, Notice):
        return f"p{value.reference}/h{value.hold} {value.status}"
    if isinstance(value, Reply):
        told = value._asdict().items() - Reply._field_defaults.items()
        return value.word + "".join(f" {k}={v}" for k, v in sorted(told) if k != "word")
    return str(value)
