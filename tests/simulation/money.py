"""INV-13: who paid has his units, or is owed the money; decided once, whatever is heard when.

Part of the checker (`invariants.py`), so it knows everything: what the provider charged, each
payment's row after each commit, and each word that the provider was thanked for.
"""

from __future__ import annotations

from collections import Counter

from .buyers import Provider
from .postgres import LIMIT, Payment, Postgres
from .words import Answer, Notice, require

Decision = tuple[str, str]  # outcome and reason


class MoneyChecker:
    """Audits payments and refunds, and holds the workers to what they told the provider."""

    def __init__(self, pg: Postgres, provider: Provider, counts: Counter[str]) -> None:
        self.pg, self.provider, self.counts = pg, provider, counts
        self.decided: dict[int, Decision] = {}
        self.told: dict[int, str] = {}  # reference -> what its provider was told last
        self.thanked: set[int] = set()  # charges that were acknowledged
        self.lost: set[int] = set()  # of these, the ones a lost history took along
        self.lost_at = 0

    # After each commit.

    def audit(self, taken: dict[int, int]) -> None:
        """INV-13 on the rows; `taken` is what each buyer has."""
        for reference, payment in self.pg.payments.items():
            if payment.outcome:
                self._audit_outcome(reference, payment, taken)
            else:
                require(
                    reference not in self.decided, "INV-13: what was decided is decided no more"
                )
        for (reference, hold), reason in self.pg.refunds.items():
            if reason != "refunded" or reference not in self.decided:
                self._audit_debt(reference, hold, reason)

    def _audit_outcome(self, reference: int, payment: Payment, taken: dict[int, int]) -> None:
        decision = (payment.outcome, payment.reason)
        if reference not in self.decided:
            self.decided[reference] = decision
            self._audit_decision(payment, taken)
        require(self.decided[reference] == decision, "INV-13: a payment was decided twice")
        charge, row = self.provider.charges[reference], self.pg.reservations.get(payment.hold)
        require(charge.succeeded, "INV-13: something came of money that did not come")
        owed = (reference, payment.hold) in self.pg.refunds
        if payment.outcome == "refund_due":
            require(owed, "INV-13: a refund is due that nobody owes")
            return
        assert row, "bought, but there is no hold"
        require(row.paid_by == reference, "INV-13: two payments bought one hold")
        require(row.buyer == charge.buyer, "INV-13: the units are somebody else's")
        require(row.state in ("sold", "refunded"), "INV-13: paid and bought, but not sold")
        require(owed == (row.state == "refunded"), "INV-13: bought and owed back")

    def _audit_decision(self, payment: Payment, taken: dict[int, int]) -> None:
        """The reason is true in the very moment of the decision."""
        pg, row = self.pg, self.pg.reservations.get(payment.hold)
        self.counts[f"paid, {payment.reason or payment.outcome}"] += 1
        if payment.outcome == "purchased":
            assert row, "bought, but there is no hold"
            self.counts["paid late"] += row.ended_at >= row.deadline
            return
        if row is None:
            true = payment.reason == "unknown"
        elif row.state in ("expired", "released"):
            over = taken.get(row.buyer, 0) + row.quantity > LIMIT
            gone = pg.free < row.quantity
            if pg.is_named:  # nobody pays for one seat and gets another
                gone = any(pg.units[unit] for unit in row.units)
            true = {"limit": over, "sold_out": gone}.get(payment.reason, False)
        else:
            true = row.state == {"refunded": "refunded", "already_paid": "sold"}.get(payment.reason)
        require(true, "INV-13: owed back for a reason that is none")

    def _audit_debt(self, reference: int, hold: int, reason: str) -> None:
        row, payment = self.pg.reservations.get(hold), self.pg.payments.get(reference)
        if reason == "refunded":
            require(row is not None and row.state == "refunded", "INV-13: owed without a refund")
        else:
            due = payment is not None and payment.outcome == "refund_due"
            require(due, "INV-13: owed without a payment")

    # At each word.

    def tell(self, notice: Notice, sent_at: int, answer: Answer) -> None:
        """INV-13: what the provider is told is so, and its word is written down."""
        self.counts[f"told provider {answer.word}"] += 1
        if answer.word == "unknown" or notice.status != "succeeded":
            return
        reference, payment = notice.reference, self.pg.payments.get(notice.reference)
        self.thanked.add(reference)
        if payment is None or payment.status != "succeeded":
            require(
                sent_at <= self.lost_at, "INV-13: thanked for money, but it is not written down"
            )
            self.lost.add(reference)
        elif sent_at > self.lost_at and answer.word != "undecided":
            require(answer.word == payment.outcome, "INV-13: the provider was told what is not so")

    # When a history ends.

    def lose_history(self, now: int) -> None:
        """Payments and refunds went back; note which acknowledged charges went along."""
        self.lost_at = now
        payments = self.pg.payments
        for reference in self.thanked:
            if reference not in payments or payments[reference].status != "succeeded":
                self.lost.add(reference)
        known: dict[int, Decision] = {
            r: (p.outcome, p.reason) for r, p in payments.items() if p.outcome
        }
        self.counts["outcomes, lost"] += len(self.decided.keys() - known.keys())
        self.decided = known

    # When the faults are over.

    def audit_healed(self) -> None:
        """INV-13: no money came to nothing."""
        pg = self.pg
        for reference, charge in self.provider.charges.items():
            payment = pg.payments.get(reference)
            if not charge.succeeded:
                require(payment is None or not payment.outcome, "INV-13: bought for nothing")
            elif payment is None or payment.status != "succeeded":
                require(reference in self.lost, "INV-13: money that came is not written down")
                self.counts["charges, lost"] += 1
            else:
                require(payment.outcome != "", "INV-13: money came to nothing")
        # Bought without naming a payment, refunded, and only then the payment's word came.
        unnamed = {hold for reference, hold in pg.refunds if not reference}
        paid = {payment.hold for payment in pg.payments.values() if payment.reason == "refunded"}
        require(not unnamed & paid, "INV-13: owed back twice")
