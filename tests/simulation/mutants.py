"""The mistakes the search must find: each is one switch in `model.py` or `postgres.py`,
and breaks one promise."""

from __future__ import annotations

from typing import Literal, get_args

Mutant = Literal[
    "fence_before_lookup",  # an old epoch is fenced before the key is looked up
    "read_instead_of_tombstone",  # an unknown commit is settled by reading
    "unversioned_publish",  # the bouncer believes whoever spoke last
    "no_epoch",  # a failover goes on counting in the old history
    "no_reaper",  # nobody closes the intents of the dead
    "extra_incr_compensation",  # whoever is refused also gives a unit back
    "refuse_without_lookup",  # "sold out" is repeated without asking for the key's row
    "limit_by_suspicion_only",  # Postgres trusts the bouncer's count of a buyer's units
    "confirm_without_deadline",  # a hold can be bought until somebody sweeps it
    "release_without_owner_check",  # units are freed whoever owns them by now
    "partial_quantity",  # two were wished for, one was left, one is given
    "settle_any_attempt",  # settling an old attempt closes the key's new intent
    "suspicion_not_confirmed",  # the bouncer's stale count is repeated to the buyer
    "retry_under_old_intent",  # the next attempt is claimed without a new admission
    "epoch_counted_not_drawn",  # epoch = restored epoch + 1: two histories may share one
    "reconcile_same_epoch_only",  # a snapshot of an older epoch goes unnoticed
    "reconcile_ignores_free",  # a restored history that caught up goes unnoticed
    "retryable_unasked",  # "nothing was taken" is said of a key that nobody looked up
    "claim_after_told",  # the deadline answers "nothing was taken", then the claim is sent
    "fence_by_worker_epoch",  # an old attempt is claimed under the epoch its worker hears of now
    "any_fence_is_definite",  # fenced by an *older* epoch is told as "never"
    "extend_twice",  # a hold is prolonged as often as its buyer likes
    "extend_past_the_longest_life",  # its own time once more, however long that was
    "pay_again_and_again",  # each beginning of a payment gives time on top
    "thank_unheard",  # a word is acknowledged though nobody knows whether it is written down
    "doubled_word_decides_again",  # a payment's word that comes twice is decided twice
    "failed_after_succeeded_undoes",  # the word that comes last counts, not the later status
    "second_payment_unnoticed",  # what is bought already is bought by the next payment, too
    "late_payment_is_silent",  # the hold is gone, so nothing is made of the money
    "unswept_is_gone",  # past its deadline a hold is not sold, though nobody has its units
    "late_payment_takes_held_units",  # who pays late gets his old units, whoever has them now
    "revive_ignores_limit",  # who pays late gets units beyond his limit
    "sold_out_from_empty_skip_locked",  # units in others' hands are taken for sold
    "undecided_forgotten",  # nobody comes back to what could not be decided
    "refund_frees_twice",  # a refund that is repeated frees the units again
    "unnamed_debt_stays",  # refunded before its payment was named, the money is owed twice
    "refund_owes_nothing",  # units come back, the money does not
    "partial_pick",  # of the units that were picked, those that are left are given
    "scattered_run",  # the best is asked for, and units far from each other are given
    "late_payment_takes_another_seat",  # who pays late gets a unit that he did not pick
    "contended_is_taken",  # a unit that somebody else's claim has locked is said to be gone
    "taken_said_unseen",  # the bitmap's suspicion is repeated to the buyer
    "scattered_said_unseen",  # and its word that no units are left beside each other
    "run_of_the_script_is_taken",  # who picked nothing is told that his pick is gone
    "give_back_sets_the_seats",  # the end of an intent says that its units are free
    "bitmap_kept",  # newer figures without changes are taken for the bitmap's version
    "load_forgets_intents",  # a bitmap that is loaded uncovers the units of open intents
    "load_goes_back",  # an old bitmap that comes late is believed
    "news_out_of_order",  # changes are applied as they come
    "gap_unnoticed",  # a settlement was lost, and nobody loads the bitmap again
    "seats_outlive_their_epoch",  # a lost history's bitmap is patched with the new one's changes
]
MUTANTS: tuple[Mutant, ...] = get_args(Mutant)

# `tombstone_refusals` is no mistake but a stricter protocol: a refusal, too, leaves a tombstone.
Variant = Mutant | Literal["", "tombstone_refusals"]
