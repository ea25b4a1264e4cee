-- name: find_usernames :many
-- What active accounts among these are called.
-- Index  users_pkey
SELECT u.id, u.username
  FROM users AS u
 WHERE u.id = ANY (@ids::uuid[]) AND u.status = 'active' AND u.username IS NOT NULL;

-- name: insert_user :maybe
-- A new account; nothing if somebody has one of its names. Waits for whoever is about to take one of them.
INSERT INTO users (id, username, email, phone, display_name, privy_id, wallet_address, wallet_registered_at,
                   password_hash, role)
VALUES (@id::uuid, @username::text, @email::text, @phone::text, @display_name::text, @privy_id::text,
        @wallet_address::text, CASE WHEN @wallet_address IS NOT NULL THEN clock_timestamp() END,
        @password_hash::text, @role::text)
ON CONFLICT DO NOTHING
RETURNING id;

-- name: find_taken :one
-- Which of these names another account has; null is nobody's.
-- Index  users_one_an_email, users_one_a_username, users_privy_id_key, users_one_a_wallet
SELECT EXISTS (SELECT FROM users WHERE lower(email) = lower(@email::text) AND id <> @id::uuid) AS email,
       EXISTS (SELECT FROM users WHERE lower(username) = lower(@username::text) AND id <> @id) AS username,
       EXISTS (SELECT FROM users WHERE privy_id = @privy_id::text AND id <> @id) AS privy_id,
       EXISTS (SELECT FROM users WHERE lower(wallet_address) = lower(@wallet_address::text) AND id <> @id)
       AS wallet_address;

-- name: find_user :maybe
-- An account and the session it has.
-- Index  users_pkey, sessions_one_live_a_user
SELECT u.*, s.id AS session_id, s.device_id, s.platform
  FROM users AS u LEFT JOIN sessions AS s ON s.user_id = u.id AND s.is_active
 WHERE u.id = @id;

-- name: find_user_by_privy :maybe
-- The same, by the id that Privy gave it.
-- Index  users_privy_id_key
SELECT u.*, s.id AS session_id, s.device_id, s.platform
  FROM users AS u LEFT JOIN sessions AS s ON s.user_id = u.id AND s.is_active
 WHERE u.privy_id = @privy_id;

-- name: find_user_by_wallet :maybe
-- The same, by its wallet, whatever the case.
-- Index  users_one_a_wallet
SELECT u.*, s.id AS session_id, s.device_id, s.platform
  FROM users AS u LEFT JOIN sessions AS s ON s.user_id = u.id AND s.is_active
 WHERE lower(u.wallet_address) = lower(@wallet_address::text);

-- name: find_user_by_email :maybe
-- The same, by its e-mail, whatever the case.
-- Index  users_one_an_email
SELECT u.*, s.id AS session_id, s.device_id, s.platform
  FROM users AS u LEFT JOIN sessions AS s ON s.user_id = u.id AND s.is_active
 WHERE lower(u.email) = lower(@email::text);

-- name: find_first_user :maybe
-- The oldest account that is not deleted.
-- Index  users_pkey
  SELECT u.*, s.id AS session_id, s.device_id, s.platform
    FROM users AS u LEFT JOIN sessions AS s ON s.user_id = u.id AND s.is_active
   WHERE u.status <> 'deleted'
ORDER BY u.id
   LIMIT 1;

-- name: list_users :many
-- Accounts, the newest first, before a cursor, with the session that each has.
-- Index  users_pkey, sessions_one_live_a_user
  SELECT u.*, s.id AS session_id, s.device_id, s.platform
    FROM users AS u LEFT JOIN sessions AS s ON s.user_id = u.id AND s.is_active
   WHERE u.id < coalesce(@before::uuid, 'ffffffff-ffff-ffff-ffff-ffffffffffff')
ORDER BY u.id DESC
   LIMIT @count::bigint
  OFFSET @skip::bigint;

-- name: count_users :one
-- How many accounts there are, the deleted ones too.
SELECT count(*) AS items FROM users;

-- name: lock_admins :many
-- Who could let others in if one admin more went. Two that go at once must see each other.
-- Locks  the rows of all active admins, by id; then the row of whom it is about.
  SELECT u.id
    FROM users AS u
   WHERE u.role = 'admin' AND u.status = 'active'
ORDER BY u.id
     FOR NO KEY UPDATE;

-- name: lock_user :maybe
-- An account whose row is ours until we commit.
-- Locks  its row.
SELECT u.*, NULL::uuid AS session_id, NULL::text AS device_id, NULL::text AS platform
  FROM users AS u
 WHERE u.id = @id
   FOR NO KEY UPDATE;

-- name: change_user :maybe
-- Put what `changes` names in place, if nobody changed the account since that version. Links that were mailed to
-- another e-mail are worth nothing from now on.
-- Locks  its row, its links, its memberships' reforges.
WITH stale AS (
    UPDATE password_resets SET used_at = clock_timestamp()
     WHERE user_id = @id AND used_at IS NULL AND @changes::text::jsonb ? 'email'
), superseded AS (
    UPDATE reforges AS f SET state = 'superseded', ended_at = clock_timestamp()
      FROM memberships AS m
     WHERE m.buyer = @id::text AND f.membership_id = m.id AND f.state = 'pending' AND @changes::text::jsonb ? 'email'
)
   UPDATE users AS u
      SET username = CASE WHEN c.changes ? 'username' THEN c.changes ->> 'username' ELSE u.username END,
          email = CASE WHEN c.changes ? 'email' THEN c.changes ->> 'email' ELSE u.email END,
          phone = CASE WHEN c.changes ? 'phone' THEN c.changes ->> 'phone' ELSE u.phone END,
          display_name = CASE WHEN c.changes ? 'displayName' THEN c.changes ->> 'displayName' ELSE u.display_name END,
          wallet_address = CASE WHEN c.changes ? 'walletAddress' THEN c.changes ->> 'walletAddress'
                                ELSE u.wallet_address END,
          wallet_registered_at = CASE WHEN c.changes ->> 'walletAddress' IS NOT NULL
                                      THEN coalesce(u.wallet_registered_at, clock_timestamp())
                                      ELSE u.wallet_registered_at END,
          role = coalesce(c.changes ->> 'role', u.role),
          status = coalesce(c.changes ->> 'status', u.status),
          deleted_at = CASE WHEN c.changes ? 'status' THEN NULL ELSE u.deleted_at END,
          version = u.version + 1,
          updated_at = clock_timestamp()
     FROM (SELECT @changes::text::jsonb AS changes) AS c
    WHERE u.id = @id AND u.version = coalesce(@version::integer, u.version) AND u.erased_at IS NULL
RETURNING u.id;

-- name: touch_user :maybe
-- It was seen just now. No change of it: the version stays.
-- Locks  its row.
   UPDATE users
      SET last_active_at = clock_timestamp()
    WHERE id = @id AND erased_at IS NULL
RETURNING id;

-- name: delete_user :maybe
-- Mark an account as deleted; it keeps its names, so that nobody takes them. Twice is once.
-- Locks  its row.
   UPDATE users
      SET status = 'deleted',
          version = version + (status <> 'deleted')::integer,
          updated_at = CASE WHEN status <> 'deleted' THEN clock_timestamp() ELSE updated_at END,
          deleted_at = coalesce(deleted_at, clock_timestamp())
    WHERE id = @id
RETURNING id;

-- name: erase_user :maybe
-- Take out of an account and of all that hangs on it whatever is personal. Its row was locked before.
-- Locks  its sessions, its log, its invitation, its memberships' devices, reforges, encounters and wallets.
WITH who AS (
    SELECT u.id, u.email FROM users AS u WHERE u.id = @id
), unsent AS (
    DELETE FROM mails AS m USING who WHERE lower(m.address) = lower(who.email)
), resets AS (
    DELETE FROM password_resets AS p USING who WHERE p.user_id = who.id
), preferences AS (
    DELETE FROM notification_preferences AS n USING who WHERE n.user_id = who.id
), invitation AS (
    UPDATE beta_keys AS b SET user_email = NULL FROM who WHERE lower(b.user_email) = lower(who.email)
), seen AS (
    UPDATE activity_logs AS a
       SET ip_address = NULL, user_agent = NULL, details = NULL
      FROM who
     WHERE a.user_id = who.id
), devices AS (
    UPDATE sessions AS s
       SET device_id = 'erased', device_name = NULL, device_model = NULL, os_version = NULL, app_version = NULL,
           push_token = NULL, push_token_updated_at = NULL, ip_address = NULL, idempotency_key = NULL
      FROM who
     WHERE s.user_id = who.id
), members AS (
    UPDATE membership_devices AS d SET device_id = 'erased'
      FROM memberships AS m, who
     WHERE m.buyer = who.id::text AND d.membership_id = m.id
), reforged AS (
    UPDATE reforges AS f
       SET old_device_id = 'erased', new_device_id = 'erased',
           state = CASE f.state WHEN 'pending' THEN 'superseded' ELSE f.state END,
           ended_at = coalesce(f.ended_at, clock_timestamp())
      FROM memberships AS m, who
     WHERE m.buyer = who.id::text AND f.membership_id = m.id
), met AS (
    UPDATE encounters AS e SET latitude = NULL, longitude = NULL
      FROM memberships AS m, who
     WHERE m.buyer = who.id::text AND (e.initiator_id = m.id OR e.receiver_id = m.id)
), wallets AS (
    DELETE FROM pass_registrations AS p USING memberships AS m, who
     WHERE m.buyer = who.id::text AND p.membership_id = m.id
)
   UPDATE users AS u
      SET username = NULL, email = NULL, phone = NULL, display_name = NULL, privy_id = NULL, wallet_address = NULL,
          password_hash = NULL, status = 'deleted', version = u.version + 1, updated_at = clock_timestamp(),
          deleted_at = coalesce(u.deleted_at, clock_timestamp()),
          erased_at = coalesce(u.erased_at, clock_timestamp())
     FROM who
    WHERE u.id = who.id
RETURNING u.id;

-- name: set_password :maybe
-- Another hash in place of the one that was compared (null: none), unless somebody was faster. Links that were
-- mailed before are worth nothing from now on.
-- Locks  its row.
WITH stale AS (
    UPDATE password_resets SET used_at = clock_timestamp() WHERE user_id = @id AND used_at IS NULL
)
   UPDATE users
      SET password_hash = @new::text, updated_at = clock_timestamp()
    WHERE id = @id AND password_hash IS NOT DISTINCT FROM @old::text AND status = 'active'
RETURNING id;

-- name: put_password :maybe
-- Another hash, whatever there was. Links that were mailed before are worth nothing from now on.
-- Locks  its row.
WITH stale AS (
    UPDATE password_resets SET used_at = clock_timestamp() WHERE user_id = @id AND used_at IS NULL
)
   UPDATE users
      SET password_hash = @new::text, updated_at = clock_timestamp()
    WHERE id = @id AND status = 'active'
RETURNING id;

-- name: want_reset :one
-- Somebody forgot a password, he says: whose it is, and whether anybody's, is the postman's to find out.
INSERT INTO mails (id, kind, address, subject_id, gives_up_at)
VALUES (@id::uuid, 'password_reset', @address, @reset::uuid, clock_timestamp() + make_interval(secs => @life_seconds))
RETURNING id;

-- name: find_reset :maybe
-- A link that still opens, and whose it is.
-- Index  password_resets_pkey
SELECT p.user_id, u.email, u.username
  FROM password_resets AS p JOIN users AS u ON u.id = p.user_id
 WHERE p.id = @id AND p.used_at IS NULL AND p.expires_at > clock_timestamp() AND u.status = 'active';

-- name: use_reset :maybe
-- Use a link, once.
-- Locks  its row.
   UPDATE password_resets
      SET used_at = clock_timestamp()
    WHERE id = @id AND used_at IS NULL AND expires_at > clock_timestamp()
RETURNING user_id;

-- name: take_mail :maybe
-- The mail that is due first, not due again for a while: whoever takes it may die with it. `over`: it is too late.
-- Locks  its row; rows that others have are passed by.
-- Index  mails_due
   UPDATE mails AS m
      SET attempts = m.attempts + 1,
          due_at = clock_timestamp() + make_interval(secs => @rest_seconds * 2 ^ least(m.attempts, 6))
    WHERE m.id = (SELECT d.id FROM mails AS d WHERE d.due_at <= clock_timestamp()
                   ORDER BY d.due_at LIMIT 1 FOR UPDATE SKIP LOCKED)
RETURNING m.id, m.kind, m.address, m.subject_id, m.attempts, m.gives_up_at,
          m.gives_up_at <= clock_timestamp() AS over;

-- name: open_reset :maybe
-- The link that a mail carries, and where it goes: nowhere if no active account has that e-mail. Twice is once.
WITH made AS (
    INSERT INTO password_resets (id, user_id, expires_at)
    SELECT @id::uuid, u.id, @expires_at::timestamptz
      FROM users AS u
     WHERE lower(u.email) = lower(@address::text) AND u.status = 'active'
    ON CONFLICT (id) DO NOTHING
)
SELECT u.id, u.email, u.username
  FROM users AS u
 WHERE lower(u.email) = lower(@address) AND u.status = 'active';

-- name: drop_mail :maybe
-- A mail was sent, or never will be.
DELETE FROM mails WHERE id = @id RETURNING id;
