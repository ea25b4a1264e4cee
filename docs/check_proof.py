"""Check a proof of the ledger offline: python check_proof.py proof.json [public key in hex]

proof.json: the answer of GET /ledger/{sequence}/proof; the key: publicKey of GET /ledger/key, once.
"""

import hashlib
import json
import sys

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey


def climb(content, steps):
    found = hashlib.sha256(b"\0" + content).digest()
    for step in steps:
        pair = [bytes.fromhex(step["hash"]), found][:: 1 if step["side"] == "left" else -1]
        found = hashlib.sha256(b"\1" + b"".join(pair)).digest()
    return found.hex()


sys.excepthook = lambda kind, why, _: print("not proven:", kind.__name__, why, file=sys.stderr)
proof = json.load(open(sys.argv[1], encoding="utf-8"))
link, head = (json.dumps(proof[key], separators=(",", ":")).encode() for key in ("link", "head"))
if climb(proof["record"].encode(), proof["path"]) != proof["link"]["root"]:
    sys.exit("not proven: not in its block")
if climb(link, proof["history"]) != proof["head"]["root"]:
    sys.exit("not proven: not in the chain")
key, signature = [*sys.argv, proof["publicKey"]][2], bytes.fromhex(proof["signature"])
Ed25519PublicKey.from_public_bytes(bytes.fromhex(key)).verify(signature, head)  # or not proven
print("proven:" if sys.argv[2:] else f"proven, if {key} is the shop's key:", proof["record"])
