-- name: find_usernames :many
-- What active accounts among these are called.
-- Index  users_pkey
SELECT u.id, u.username
  FROM users AS u
 WHERE u.id = ANY (@ids::uuid[]) AND u.status = 'active' AND u.username IS NOT NULL;
