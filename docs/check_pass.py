"""Who comes? Check a pass's QR code offline: python check_pass.py MESSAGE keys.json [revoked.json]

keys.json: `velvetrope pass key`, or GET /wallet/keys; revoked.json: `velvetrope pass revoked`.
"""

import base64
import json
import sys

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey


def listed(path: str, name: str) -> list:
    try:
        return json.load(open(path))[name]
    except (OSError, ValueError, LookupError, TypeError):
        sys.exit(f'no: {path} is no file with a list of "{name}": were two files swapped?')


if len(sys.argv) not in (3, 4):
    sys.exit("usage: python check_pass.py MESSAGE keys.json [revoked.json]")
said, _, signature = sys.argv[1].rpartition(":")
if said.count(":") != 6 or not said.startswith("VR"):
    sys.exit("no: this is no barcode of a pass")
version, key, tier, year, number, membership, minted = said.split(":")
if version != "VR1":
    sys.exit("no: a newer kind of pass")
known = {each["id"]: each["publicKey"] for each in listed(sys.argv[2], "keys")}
if key not in known:
    sys.exit(f"no: signed with the key {key}, which is not among ours")
try:
    # One signature is written in one way: without "=", and with no bits to spare.
    raw = base64.urlsafe_b64decode(signature + "==")
    if base64.urlsafe_b64encode(raw).decode().rstrip("=") != signature:
        raise ValueError
    Ed25519PublicKey.from_public_bytes(bytes.fromhex(known[key])).verify(raw, said.encode())
except (InvalidSignature, ValueError):
    sys.exit("no: the signature is not ours: it is forged, or was changed")
if sys.argv[3:] and membership in listed(sys.argv[3], "revoked"):
    sys.exit(f"no: membership {membership} has been revoked")
print(f"{tier} {year} #{number}, minted {minted}, membership {membership}")
if not sys.argv[3:]:
    print("without revoked.json nobody knows whether it has ended since", file=sys.stderr)
