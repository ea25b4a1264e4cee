-- name: insert_beta_keys :many
-- New invitations, in the order given.
   INSERT INTO beta_keys AS k (id, key)
   SELECT given.id, given.key FROM unnest(@ids::uuid[], @keys::text[]) AS given (id, key)
RETURNING k.id, k.key, k.status, k.user_email, k.created_at, k.activated_at;

-- name: use_beta_key :maybe
-- Use an invitation that nobody used, for an e-mail: of many at once one gets the row, and the others find it used.
-- An e-mail that has used another is refused by beta_keys_one_an_email.
-- Locks  the key's row.
-- Index  beta_keys_key_key
   UPDATE beta_keys AS k
      SET status = 'active', user_email = @email, activated_at = clock_timestamp()
    WHERE k.key = @key AND k.status = 'pending'
RETURNING k.id, k.key, k.status, k.user_email, k.created_at, k.activated_at;

-- name: find_beta_key :maybe
-- One invitation, used or not.
-- Index  beta_keys_key_key
SELECT k.id, k.key, k.status, k.user_email, k.created_at, k.activated_at FROM beta_keys AS k WHERE k.key = @key;

-- name: find_beta_key_of :maybe
-- The invitation that an e-mail used. `asker` not null: only if that is the e-mail of this account.
-- Index  beta_keys_one_an_email
SELECT k.id, k.key, k.status, k.user_email, k.created_at, k.activated_at
  FROM beta_keys AS k
 WHERE lower(k.user_email) = lower(@email)
   AND (@asker::uuid IS NULL
        OR EXISTS (SELECT FROM users AS u WHERE u.id = @asker::uuid AND lower(u.email) = lower(@email)));

-- name: list_beta_keys :many
-- Invitations, newest first, before a cursor; used ones, unused ones, or (null) both.
-- Index  beta_keys_pkey
SELECT k.id, k.key, k.status, k.user_email, k.created_at, k.activated_at
  FROM beta_keys AS k
 WHERE (@status::text IS NULL OR k.status = @status::text)
   AND (@before::uuid IS NULL OR k.id < @before::uuid)
 ORDER BY k.id DESC
 LIMIT @count::bigint
OFFSET @skip::bigint;

-- name: count_beta_keys :one
-- How many of a status there are, or (null) of both.
SELECT count(*) AS items FROM beta_keys AS k WHERE @status::text IS NULL OR k.status = @status::text;
