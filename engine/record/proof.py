"""Proof: that a record is under the signed head, by hashes alone."""

from __future__ import annotations

from engine.infra.errors import NotFound, Problem
from engine.infra.postgres import Postgres
from engine.record import books, merkle
from engine.record.keys import Keyring
from engine.record.ledger import link_leaf
from engine.record.models import Head
from engine.record.views import ProofView, SignedHead, head_view, link_view


class Unproven(Problem):
    """The ledger does not add up here. Ask /ledger/verify where it was changed."""


async def signed_head(postgres: Postgres, ring: Keyring) -> SignedHead:
    """Where the chain ends now. Raises `NotFound` before anything was sealed."""
    head = (await books.ends(postgres)).head
    return SignedHead(head_view(head), *await _signature(postgres, ring, head))


async def proof(postgres: Postgres, ring: Keyring, sequence: int) -> ProofView:
    """The way from a record to the present head. Raises `NotFound`, and `Unproven` of one that
    does not lead there."""
    found = await books.find_record(postgres, sequence)
    if found is None:
        raise NotFound(f"There is no record {sequence} in the ledger, or it is not sealed yet")
    record, link, leaves = found
    head = (await books.ends(postgres)).head
    signature, public_key = await _signature(postgres, ring, head)
    place = link.height - 1
    if not 0 <= sequence - link.first < len(leaves) or place >= head.height:
        raise Unproven
    wanted = [
        node
        for low, high, _ in merkle.siblings(place, head.height)
        for node in merkle.perfect(low, high)
    ]
    nodes = await books.nodes(postgres, wanted)
    if len(nodes) < len(wanted):
        raise Unproven
    path = merkle.path_among(leaves, sequence - link.first)
    history = merkle.path(place, head.height, lambda level, place: nodes[level, place])
    leaf = merkle.leaf_hash(record.content)
    if merkle.climb(leaf, path) != link.root or merkle.climb(link_leaf(link), history) != head.root:
        raise Unproven
    return ProofView(
        head=head_view(head),
        signature=signature,
        public_key=public_key,
        sequence=sequence,
        record=record.content.decode(),
        path=path,
        link=link_view(link),
        history=history,
    )


async def _signature(postgres: Postgres, ring: Keyring, head: Head) -> tuple[str, str]:
    """A head's signature, and the key that it is by."""
    if head.signature is None:
        raise NotFound("Nothing is sealed yet")
    public_key = ring.public(head.signing_key or "")
    if public_key is None:
        known = {key.signing_key: key.public_key for key in await books.keys(postgres)}
        public_key = known.get(head.signing_key or "", b"")
    return head.signature.hex(), public_key.hex()
