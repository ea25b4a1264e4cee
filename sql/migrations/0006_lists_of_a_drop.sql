-- For operators' lists and exports of one drop, newest first. Built beside a running sale, so it may
-- take its time; one that was cut short is built again.
DROP INDEX CONCURRENTLY IF EXISTS reservations_by_drop;
CREATE INDEX CONCURRENTLY reservations_by_drop ON reservations (drop_id, id);

-- For the pruner: tombstones alone, so that holds cost it nothing.
DROP INDEX CONCURRENTLY IF EXISTS reservations_aborted_by_age;
CREATE INDEX CONCURRENTLY reservations_aborted_by_age ON reservations (created_at) WHERE state = 'aborted';
