"""Findings about passes: can they be signed, and for how long?"""

from __future__ import annotations

from engine.infra.errors import Misconfigured
from engine.infra.settings import Settings
from engine.membership import certificates
from engine.ops.findings import Finding

DAYS_MIN = 30  # Apple takes its time


def passes(settings: Settings) -> Finding:
    """Judge what signs passes. Without a certificate nothing is looked at: a chain of our own is
    made when somebody wants a pass."""
    if not certificates.is_given(settings):
        said = "signed by a chain of our own, which no phone knows (WALLET_CERTIFICATE: Apple's)"
        return Finding("passes", "ok", said)
    try:
        signer = certificates.signer(settings)
    except Misconfigured as wrong:
        return Finding("passes", "fail", str(wrong), "see docs/PASSES.md", refuses=True)
    said = f"signed for {settings.wallet_type_id}, for {signer.days_left} days"
    if signer.days_left < DAYS_MIN:
        mend = "get a new certificate from Apple, and replace the workers"
        return Finding("passes", "warn", said, mend)
    return Finding("passes", "ok", said)
