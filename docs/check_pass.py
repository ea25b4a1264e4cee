"""Who comes? Check a pass's QR code offline: python check_pass.py MESSAGE keys.json [revoked.json]

keys.json: `velvetrope pass key`, or GET /wallet/keys; revoked.json: `velvetrope pass revoked`.
"""

import base64
import json
import sys

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

sys.excepthook = lambda kind, why, _: print("no:", kind.__name__, why, file=sys.stderr)
said, _, signature = sys.argv[1].rpartition(":")
version, key, tier, year, number, membership, minted = said.split(":")
if version != "VR1":
    sys.exit("no: a newer kind of pass")
known = {each["id"]: each["publicKey"] for each in json.load(open(sys.argv[2]))["keys"]}
if key not in known:
    sys.exit(f"no: signed with the key {key}, which is not among ours")
# One signature is written in one way: without "=", and with no bits to spare.
raw = base64.urlsafe_b64decode(signature + "==")
if base64.urlsafe_b64encode(raw).decode().rstrip("=") != signature:
    sys.exit("no: not as we write it")
Ed25519PublicKey.from_public_bytes(bytes.fromhex(known[key])).verify(raw, said.encode())  # or no
if sys.argv[3:] and membership in json.load(open(sys.argv[3]))["revoked"]:
    sys.exit(f"no: membership {membership} has been revoked")
print(f"{tier} {year} #{number}, minted {minted}, membership {membership}")
