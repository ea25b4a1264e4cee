-- name: database_identity :one
-- Names this database among all others: initdb, restore and clone each make another one, so that
-- a bouncer left from an older database is simply unknown.
SELECT encode(sha256(concat_ws(':', e.seed, d.oid, 'engine_state'::regclass::oid, c.system_identifier)::bytea),
              'hex') AS id,
       substring(pg_walfile_name(pg_current_wal_lsn()) FROM 1 FOR 8) AS timeline
  FROM engine_state AS e
  JOIN pg_database AS d ON d.datname = current_database()
 CROSS JOIN pg_control_system() AS c;

-- name: timeline :one
-- Where the log is written now; it rises with every promotion. Only a primary can say.
SELECT substring(pg_walfile_name(pg_current_wal_lsn()) FROM 1 FOR 8) AS timeline;

-- name: bump_epoch :one
-- A new epoch if history was lost; see functions/bump_epoch.sql.
SELECT bump_epoch(@seen::bigint) AS epoch;

-- name: limit_waiting :one
-- Wait for no lock longer than this, until the end of the transaction.
SELECT set_config('lock_timeout', @milliseconds::integer || 'ms', true) AS told;

-- name: limit_transactions :one
-- End a transaction whose client stopped in the middle of it, whatever it waits for: its locks must
-- not stop a sale. Postgres 17 and newer can; on older ones a client that is cut off ends it.
SELECT CASE WHEN current_setting('server_version_num')::integer >= 170000
            THEN set_config('transaction_timeout', @milliseconds::integer || 'ms', false) END AS told;

-- name: mark_direct :one
-- From now on claims may be under way that left no intent in Redis; until when to reckon with them.
UPDATE engine_state
   SET direct_until = greatest(direct_until, clock_timestamp() + make_interval(secs => @seconds::float8))
RETURNING direct_until;

-- name: beat :one
-- A keeper lives. Rows of those long gone are forgotten on the way.
WITH gone AS (
    DELETE FROM keepers WHERE beat_at < clock_timestamp() - interval '1 hour'
)
INSERT INTO keepers (id)
VALUES (@keeper)
    ON CONFLICT (id) DO UPDATE
   SET beat_at = clock_timestamp()
RETURNING id;

-- name: count_keepers :one
-- How many keepers gave a sign of life of late.
SELECT count(*) AS alive FROM keepers WHERE beat_at > clock_timestamp() - make_interval(secs => @seconds::float8);

-- name: is_there :one
-- Whether a server answers, and has our tables.
SELECT count(*) AS rows FROM (SELECT 1 FROM engine_state LIMIT 1) AS any_row;
