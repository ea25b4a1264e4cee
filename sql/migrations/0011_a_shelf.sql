-- A row of `units` is a unit that nobody holds and nobody bought: a claim deletes it, and what comes
-- back is a new row at the queue's end. Who has a unit is said by live holds and by purchases alone.
-- Before, a hold wrote another version of the unit's row with an entry of its key, and a purchase one more.
--
-- Rows of held and sold units go. The functions before this know columns and states that are gone: who runs
-- one meanwhile fails and has changed nothing, and those that fit come in the same commit. The recount
-- of an older keeper fails as well, instead of pausing every drop, and goes on when the keeper is replaced.
LOCK TABLE units IN ACCESS EXCLUSIVE MODE;
DELETE FROM units WHERE state IN ('held', 'sold');
DROP INDEX units_free_by_position;
ALTER TABLE units
    DROP CONSTRAINT only_held_and_sold_units_have_an_owner,
    DROP COLUMN reservation_id,
    ALTER COLUMN state DROP DEFAULT;
ALTER TYPE unit_state RENAME TO unit_state_with_owners;
CREATE TYPE unit_state AS ENUM (
    'free',       -- on sale: leaves the table when it is held
    'withdrawn'   -- free -> withdrawn: taken off sale by its owner
);
-- Rewrites the table, and so gives back the room of what went: with it, a second for a million units.
ALTER TABLE units ALTER COLUMN state TYPE unit_state USING state::text::unit_state;
ALTER TABLE units ALTER COLUMN state SET DEFAULT 'free';
DROP TYPE unit_state_with_owners;

-- For claim_units and withdraw_units: the queue.
CREATE INDEX units_free_by_position ON units (drop_id, position) WHERE state = 'free';

-- A claim leaves a dead row behind the queue's head, where only the general path walks: 90,000 of them cost it
-- 15 ms once, which marks them, and half a millisecond from then on. A vacuum in the rush writes 29 bytes of
-- WAL a hold: better one after it, so 50,000 and a fifth of the shelf. Rows are laid down to be taken
-- away: to mark their pages as visible to all would be for nothing.
ALTER TABLE units RESET (autovacuum_vacuum_scale_factor);
ALTER TABLE units SET (autovacuum_vacuum_threshold = 50000, autovacuum_vacuum_insert_threshold = -1);
