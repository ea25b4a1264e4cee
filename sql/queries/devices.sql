-- name: find_member :maybe
-- Whose a membership is, whether it ended, and what time it is.
-- Index  memberships_pkey
SELECT m.buyer, m.revoked_at IS NOT NULL AS revoked, clock_timestamp() AS now
  FROM memberships AS m
 WHERE m.id = @id;

-- name: lock_member :maybe
-- The same, of a membership that nobody ends and whose device nobody changes until we commit.
-- Locks  the membership
-- Index  memberships_pkey
SELECT m.buyer, m.revoked_at IS NOT NULL AS revoked, clock_timestamp() AS now
  FROM memberships AS m
 WHERE m.id = @id
   FOR NO KEY UPDATE;

-- name: find_active_device :maybe
-- The device whose key a membership goes by.
-- Index  membership_devices_one_active
SELECT d.id, d.membership_id, d.device_id, d.public_key, d.registered_at, d.revoked_at
  FROM membership_devices AS d
 WHERE d.membership_id = @membership AND d.revoked_at IS NULL;

-- name: read_device :one
-- A device, as it is now.
-- Index  membership_devices_pkey
SELECT d.id, d.membership_id, d.device_id, d.public_key, d.registered_at, d.revoked_at
  FROM membership_devices AS d
 WHERE d.id = @id;

-- name: list_devices :many
-- The devices that a membership has had, the newest first, before a cursor.
SELECT d.id, d.membership_id, d.device_id, d.public_key, d.registered_at, d.revoked_at
  FROM membership_devices AS d
 WHERE d.membership_id = @membership AND (@before::uuid IS NULL OR d.id < @before)
 ORDER BY d.id DESC
 LIMIT @count::bigint
OFFSET @skip::bigint;

-- name: count_devices :one
-- How many devices it has had.
-- Index  membership_devices_by_membership
SELECT count(*) AS items FROM membership_devices AS d WHERE d.membership_id = @membership;

-- name: insert_device :one
-- The device of a membership that has none.
INSERT INTO membership_devices (id, membership_id, device_id, public_key)
VALUES (@id::uuid, @membership::uuid, @device, @key)
RETURNING id, membership_id, device_id, public_key, registered_at, revoked_at;

-- name: revoke_device :maybe
-- A device is its membership's no longer.
-- Index  membership_devices_pkey
UPDATE membership_devices AS d SET revoked_at = clock_timestamp()
 WHERE d.id = @id AND d.revoked_at IS NULL
RETURNING d.id;

-- name: count_reforges :one
-- How many reforges were begun within so many seconds, and when the first of them is older.
-- Index  reforges_by_membership
SELECT count(*) AS items,
       extract(epoch FROM min(f.created_at) - clock_timestamp())::float8 + @seconds::float8 AS wait_seconds
  FROM reforges AS f
 WHERE f.membership_id = @membership AND f.created_at > clock_timestamp() - make_interval(secs => @seconds);

-- name: supersede_reforges :many
-- Another one is begun: what was mailed before opens nothing any more.
-- Index  reforges_one_pending
UPDATE reforges AS f SET state = 'superseded', ended_at = clock_timestamp()
 WHERE f.membership_id = @membership AND f.state = 'pending'
RETURNING f.id;

-- name: want_reforge :one
-- A reforge that waits for its link to be used, and the mail that carries it; until when.
WITH made AS (
    INSERT INTO reforges (id, membership_id, buyer, old_device_id, new_device_id, new_public_key, token_hash,
                          expires_at)
    VALUES (@id::uuid, @membership::uuid, @buyer, @old_device, @new_device, @new_key, @hash::bytea,
            clock_timestamp() + make_interval(secs => @life_seconds))
    RETURNING id, expires_at
), mailed AS (
    INSERT INTO mails (id, kind, address, subject_id, gives_up_at)
    SELECT @mail::uuid, 'reforge', @address, made.id, made.expires_at FROM made
)
SELECT made.expires_at FROM made;

-- name: find_reforge :maybe
-- What a link opens, or opened.
-- Index  reforges_token_hash_key
SELECT f.id, f.membership_id FROM reforges AS f WHERE f.token_hash = @hash::bytea;

-- name: lock_reforge :maybe
-- A reforge that is ours until we commit. `expired`: too late, whether or not a keeper said so.
-- Locks  its row; its membership's was locked before.
-- Index  reforges_pkey
SELECT f.id, f.state, f.old_device_id, f.new_device_id, f.new_public_key,
       f.state = 'expired' OR (f.state = 'pending' AND f.expires_at <= clock_timestamp()) AS expired
  FROM reforges AS f
 WHERE f.id = @id
   FOR NO KEY UPDATE;

-- name: confirm_reforge :maybe
-- A link was used. Its row was locked before, and was pending.
-- Index  reforges_pkey
UPDATE reforges AS f SET state = 'confirmed', ended_at = clock_timestamp()
 WHERE f.id = @id
RETURNING f.id;

-- name: expire_reforges :many
-- End reforges whose links are too old: all, or (not null) that one.
-- Locks  reforges (SKIP LOCKED)
-- Index  reforges_one_pending, reforges_pkey
WITH past AS MATERIALIZED (
    SELECT f.id
      FROM reforges AS f
     WHERE f.state = 'pending' AND f.expires_at <= clock_timestamp() AND (@id::uuid IS NULL OR f.id = @id)
     LIMIT @count::bigint
       FOR UPDATE SKIP LOCKED
)
UPDATE reforges AS f SET state = 'expired', ended_at = clock_timestamp()
  FROM past
 WHERE f.id = past.id
RETURNING f.id;

-- name: read_reforge :maybe
-- What the mail of a reforge is about; nothing if that is over.
-- Index  memberships_pkey, membership_drops_pkey
SELECT f.buyer, f.new_device_id, f.token_hash, k.tier, k.year, m.number
  FROM reforges AS f
  JOIN memberships AS m ON m.id = f.membership_id
  JOIN membership_drops AS k ON k.drop_id = m.drop_id
 WHERE f.id = @id AND f.state = 'pending' AND f.expires_at > clock_timestamp() AND m.revoked_at IS NULL;
