-- name: acquire_lock :one
-- A named lock, or how long whoever has it will; see functions/acquire_lock.sql.
SELECT taken, rest FROM acquire_lock(@name, @owner, @seconds::float8);

-- name: renew_lock :maybe
-- Keep a lock for so long from now. No row: it ran out, or is another's.
-- Locks  the lock's row: waits for a write under its guard.
-- Index  locks_pkey
   UPDATE locks
      SET expires_at = clock_timestamp() + make_interval(secs => @seconds::float8)
    WHERE name = @name AND owner = @owner AND token = @token AND expires_at > clock_timestamp()
RETURNING token;

-- name: release_lock :maybe
-- Give a lock back. The row stays, and so does its token. No row: it was not ours any more.
-- Locks  the lock's row.
-- Index  locks_pkey
   UPDATE locks
      SET owner = NULL, expires_at = clock_timestamp()
    WHERE name = @name AND owner = @owner AND token = @token
RETURNING token;

-- name: guard_lock :maybe
-- Is it ours? Then nobody takes it before this transaction is over, however long that is.
-- Locks  the lock's row, shared.
-- Index  locks_pkey
SELECT token
  FROM locks
 WHERE name = @name AND owner = @owner AND token = @token AND expires_at > clock_timestamp()
   FOR SHARE;

-- name: list_locks :many
-- All locks there ever were, by name. `live`: somebody has it.
-- Index  locks_pkey
  SELECT name, owner, token, acquired_at, expires_at,
         owner IS NOT NULL AND expires_at > clock_timestamp() AS live
    FROM locks
   WHERE @after::text IS NULL OR name > @after
ORDER BY name
   LIMIT @count::bigint
  OFFSET @skip::bigint;

-- name: count_locks :one
-- How many locks there ever were.
SELECT count(*) AS locks FROM locks;
