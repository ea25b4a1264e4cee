-- A row of `units` is a unit that nobody holds and nobody bought: a claim deletes it, and what comes
-- back is a new row at the queue's end. Who has a unit stands in the units of live holds and of
-- purchases alone. Before, a hold wrote a second version of its unit's row and two index entries,
-- and a purchase a third.
--
-- The rows of held and sold units go. Functions of the version before find no reservation_id and no
-- state 'held', so they fail instead of leaving rows behind: those of this one come in the same commit.
-- Likewise the recount of an older keeper fails instead of pausing drops; it goes on when it is updated.
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
-- Rewrites the table, and so forgets what was held and sold before: some two seconds a million units.
ALTER TABLE units ALTER COLUMN state TYPE unit_state USING state::text::unit_state;
ALTER TABLE units ALTER COLUMN state SET DEFAULT 'free';
DROP TYPE unit_state_with_owners;

-- For claim_units and withdraw_units: the queue.
CREATE INDEX units_free_by_position ON units (drop_id, position) WHERE state = 'free';

-- Of a shelf that empties, a share of its rows soon is nothing, and each vacuum walks both indexes. The head
-- of the queue keeps claims off what is dead: clearing up only has to keep pace with units that come and go.
ALTER TABLE units SET (autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 5000,
                       autovacuum_vacuum_cost_delay = 0);
