-- name: insert_api_key :one
-- A new key. The secret itself is shown once and never stored. Its end is the earlier one of @ends_at and
-- so many days from now.
INSERT INTO api_keys (id, name, prefix, hash, scopes, must_sign, expires_at)
VALUES (@id, @name, @prefix, @hash, @scopes::text[], @must_sign,
        least(@ends_at::timestamptz, clock_timestamp() + make_interval(days => @days::integer)))
RETURNING created_at, expires_at;

-- name: find_live_keys :many
-- The live keys with these public prefixes, and for how many seconds more each lives; null: for ever. A rotated
-- key lives on until its end.
-- Index  api_keys_prefix_key
SELECT prefix, id, name, hash, scopes, must_sign,
       extract(epoch FROM least(revoked_at, expires_at) - clock_timestamp())::float8 AS seconds_left
  FROM api_keys
 WHERE prefix = ANY (@prefixes::text[])
   AND (revoked_at IS NULL OR revoked_at > clock_timestamp())
   AND (expires_at IS NULL OR expires_at > clock_timestamp());

-- name: list_api_keys :many
-- Every key there ever was, newest first, without its hash. `live` while it is honoured.
  SELECT id, name, prefix, scopes, created_at, revoked_at, expires_at, must_sign,
         coalesce(least(revoked_at, expires_at) > clock_timestamp(), true) AS live
    FROM api_keys
   WHERE @before::uuid IS NULL OR id < @before
ORDER BY id DESC
   LIMIT @count::bigint
  OFFSET @skip::bigint;

-- name: count_api_keys :one
-- How many keys there ever were.
SELECT count(*) AS keys FROM api_keys;

-- name: find_api_keys_named :many
-- The keys that an operator may mean: by id as text, or by public prefix.
SELECT id, name, prefix, scopes, created_at, revoked_at, expires_at, must_sign,
       coalesce(least(revoked_at, expires_at) > clock_timestamp(), true) AS live
  FROM api_keys
 WHERE id::text = @named OR prefix = @named;

-- name: revoke_api_key :maybe
-- End a key so many seconds from now. An end that was set can come sooner, never later.
-- Locks  the key's row.
   UPDATE api_keys
      SET revoked_at = least(revoked_at, clock_timestamp() + make_interval(secs => @grace_seconds))
    WHERE id = @id
RETURNING revoked_at;

-- name: claim_nonce :one
-- May a request that was signed at that time (@moment, seconds since 1970), with that nonce, be done? `late`:
-- by how many seconds the time is behind ours (negative: ahead). `is_new`: no other came with the nonce; it is
-- remembered, unless the time is out of the window.
-- Locks  the nonce's row, if somebody claims it at this moment.
WITH clock AS (
    SELECT extract(epoch FROM clock_timestamp())::float8 - @moment::float8 AS late
), claimed AS (
    INSERT INTO nonces (key_id, nonce)
    SELECT @key_id, @nonce
      FROM clock
     WHERE abs(clock.late) <= @window::float8
        ON CONFLICT DO NOTHING
    RETURNING nonce
)
SELECT clock.late, EXISTS (SELECT FROM claimed) AS is_new FROM clock;

-- name: prune_nonces :one
-- Forget nonces whose requests are too old to be done again. Bounded.
-- Index  nonces_by_age
WITH gone AS (
    DELETE FROM nonces
     WHERE (key_id, nonce) IN (SELECT n.key_id, n.nonce
                                 FROM nonces AS n
                                WHERE n.seen_at < clock_timestamp() - make_interval(secs => @seconds::float8)
                                ORDER BY n.seen_at
                                LIMIT @count::bigint)
    RETURNING key_id
)
SELECT count(*) AS pruned FROM gone;
