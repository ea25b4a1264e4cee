-- name: insert_api_key :one
-- A new key. The secret itself is shown once and never stored.
INSERT INTO api_keys (id, name, prefix, hash, scopes)
VALUES (@id, @name, @prefix, @hash, @scopes::text[])
RETURNING id;

-- name: find_api_key :maybe
-- The live key with this public prefix. A rotated key lives on until its end.
SELECT id, name, hash, scopes
  FROM api_keys
 WHERE prefix = @prefix
   AND (revoked_at IS NULL OR revoked_at > clock_timestamp());

-- name: list_api_keys :many
-- Every key there ever was, newest first, without its hash. `live` while it is honoured.
  SELECT id, name, prefix, scopes, created_at, revoked_at,
         revoked_at IS NULL OR revoked_at > clock_timestamp() AS live
    FROM api_keys
ORDER BY created_at DESC, id DESC;

-- name: find_api_keys_named :many
-- The keys that an operator may mean: by id as text, or by public prefix.
SELECT id, name, prefix, scopes, created_at, revoked_at,
       revoked_at IS NULL OR revoked_at > clock_timestamp() AS live
  FROM api_keys
 WHERE id::text = @named OR prefix = @named;

-- name: revoke_api_key :maybe
-- End a key so many seconds from now. An end that was set can come sooner, never later.
-- Locks  the key's row.
   UPDATE api_keys
      SET revoked_at = least(revoked_at, clock_timestamp() + make_interval(secs => @grace_seconds))
    WHERE id = @id
RETURNING revoked_at;
