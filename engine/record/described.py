"""What the document says of the ledger's routes."""

from __future__ import annotations

from typing import Annotated

from engine.infra.describe import About, Query, Reply, shown
from engine.infra.errors import NotFound
from engine.infra.lists import Listing
from engine.record.proof import Unproven
from engine.record.views import (
    EntryView,
    KeysView,
    ProgressView,
    ProofView,
    SignedHead,
    VerdictView,
)

LIMIT, LIMIT_MAX = 10, 50
SEQUENCE_MAX = 2**53 - 1
Sequence = Annotated[int, shown(minimum=1, maximum=SEQUENCE_MAX, examples=[1])]

LIST = About(
    "Ledger",
    "anybody",
    query=(
        Query(
            "limit",
            Annotated[int, shown(minimum=1, maximum=LIMIT_MAX, default=LIMIT)],
            "How many.",
        ),
        Query(
            "cursor",
            Annotated[str, shown(pattern="^([1-9][0-9]{0,14})?$")],
            "`nextCursor` of the page before; nothing for the newest.",
        ),
    ),
    answers={200: Listing[EntryView]},
)
VERIFY = About(
    "Ledger",
    "anybody",
    answers={
        200: VerdictView,
        202: Reply(
            ProgressView, headers={"Retry-After": "Seconds until it is worth asking again."}
        ),
    },
)
PROOF = About("Ledger", "anybody", id=Sequence, answers={200: ProofView}, refusals=(Unproven,))
KEY = About("Ledger", "anybody", answers={200: KeysView})
HEAD = About("Ledger", "anybody", answers={200: SignedHead}, refusals=(NotFound,))
EXPORT = About(
    "Ledger",
    "admin",
    counted="admin",
    answers={200: Reply(None, {"application/x-ndjson": str})},
)
