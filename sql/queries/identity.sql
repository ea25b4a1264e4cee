-- name: insert_api_key :one
-- A new key. The secret itself is shown once and never stored.
INSERT INTO api_keys (id, name, prefix, hash, scopes)
VALUES (@id, @name, @prefix, @hash, @scopes::text[])
RETURNING id;

-- name: find_api_key :maybe
-- The live key with this public prefix.
SELECT id, name, hash, scopes FROM api_keys WHERE prefix = @prefix AND revoked_at IS NULL;
