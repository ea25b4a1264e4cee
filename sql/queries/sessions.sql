-- name: open_session :one
-- Let a device in; see functions/open_session.sql.
SELECT o.word, o.role, (o.session).*
  FROM open_session(@id::uuid, @user::uuid, @device::text, @platform::text, @device_name::text, @device_model::text,
                    @os_version::text, @app_version::text, @push_token::text, @ip_address::text, @key::text,
                    @days::integer, @keep::boolean) AS o;

-- name: rotate_refresh :one
-- Take a refresh token; see functions/rotate_refresh.sql.
SELECT o.word, o.role, (o.session).*
  FROM rotate_refresh(@id::uuid, @generation::integer, make_interval(secs => @grace_seconds::float8)) AS o;

-- name: end_sessions :many
-- End a user's live session, if there is one.
-- Locks  it.
-- Index  sessions_one_live_a_user
   UPDATE sessions
      SET is_active = false, terminated_at = clock_timestamp(), termination_reason = @reason
    WHERE user_id = @user::uuid AND is_active
RETURNING *;

-- name: find_standings :many
-- Whose these sessions are, whether they are over, and what their users may do.
-- Index  sessions_pkey, users_pkey
SELECT s.id, s.user_id, s.is_active, s.expires_at, s.expires_at <= clock_timestamp() AS is_past,
       s.termination_reason, u.role, u.status
  FROM sessions AS s
  JOIN users AS u ON u.id = s.user_id
 WHERE s.id = ANY (@ids::uuid[]);

-- name: follow_credentials :one
-- What became of credentials since the snapshot of the look before (null: there was none), so many changes at
-- most, and the snapshot of this one. Each is told once, when it is committed, however long its transaction took.
-- Index  credential_changes_by_xid
SELECT n.snapshot::text, clock_timestamp() AS now,
       coalesce(pg_snapshot_xmin(n.snapshot) < pg_snapshot_xmin(@before::text::pg_snapshot), true) AS is_rewound,
       c.kinds, c.subjects
  FROM pg_current_snapshot() AS n (snapshot)
 CROSS JOIN LATERAL (
       SELECT array_agg(x.kind) AS kinds, array_agg(x.subject_id) AS subjects
         FROM (SELECT l.kind, l.subject_id
                 FROM credential_changes AS l
                WHERE l.xid >= pg_snapshot_xmin(@before::text::pg_snapshot)
                  AND NOT pg_visible_in_snapshot(l.xid, @before::text::pg_snapshot)
                ORDER BY l.xid  -- or the limit seems to make it cheap to read the whole table
                LIMIT @most::bigint) AS x) AS c;

-- name: prune_credential_changes :one
-- Forget changes that every process has long seen.
WITH gone AS (
    DELETE FROM credential_changes
     WHERE ctid = ANY (ARRAY(SELECT x.ctid
                               FROM credential_changes AS x
                              WHERE x.changed_at < clock_timestamp() - make_interval(hours => @hours::integer)
                              ORDER BY x.xid
                              LIMIT @count::bigint))
    RETURNING xid
)
SELECT count(*) AS pruned FROM gone;

-- name: prune_sessions :one
-- Forget sessions that ended so long ago, where devices were with them, and links for new passwords that are past.
-- Index  sessions_ended, password_resets_pkey
WITH sessions_gone AS (
    DELETE FROM sessions
     WHERE id = ANY (ARRAY(SELECT s.id
                             FROM sessions AS s
                            WHERE NOT s.is_active
                              AND s.terminated_at < clock_timestamp() - make_interval(days => @days::integer)
                            ORDER BY s.terminated_at
                            LIMIT @count::bigint))
    RETURNING id
), links_gone AS (
    DELETE FROM password_resets
     WHERE id = ANY (ARRAY(SELECT p.id
                             FROM password_resets AS p
                            WHERE p.expires_at < clock_timestamp() - interval '1 day'
                            ORDER BY p.id
                            LIMIT @count::bigint))
    RETURNING id
)
SELECT (SELECT count(*) FROM sessions_gone) + (SELECT count(*) FROM links_gone) AS pruned;

-- name: end_expired :many
-- End sessions whose time is over. What somebody else has in hand he ends himself.
-- Locks  those it ends, in the order of their deadlines.
-- Index  sessions_due
   UPDATE sessions
      SET is_active = false, terminated_at = clock_timestamp(), termination_reason = 'expired'
    WHERE id = ANY (ARRAY(SELECT s.id
                            FROM sessions AS s
                           WHERE s.is_active AND s.expires_at <= clock_timestamp()
                           ORDER BY s.expires_at
                           LIMIT @count::bigint
                             FOR UPDATE SKIP LOCKED))
RETURNING id, user_id;

-- name: next_end :one
-- Seconds until the next session's time is over; null: none lives.
-- Index  sessions_due
SELECT extract(epoch FROM min(s.expires_at) - clock_timestamp())::float8 AS seconds FROM sessions AS s WHERE s.is_active;

-- name: find_session :maybe
-- One session, live or over.
-- Index  sessions_pkey
SELECT s.*, s.expires_at <= clock_timestamp() AS is_past FROM sessions AS s WHERE s.id = @id::uuid;

-- name: find_session_by_key :maybe
-- The session that a user's key opened.
-- Index  sessions_one_a_key
SELECT s.*, s.expires_at <= clock_timestamp() AS is_past
  FROM sessions AS s
 WHERE s.user_id = @user::uuid AND s.idempotency_key = @key::text;

-- name: find_active_session :maybe
-- A user's live session.
-- Index  sessions_one_live_a_user
SELECT s.*, false AS is_past
  FROM sessions AS s
 WHERE s.user_id = @user::uuid AND s.is_active AND s.expires_at > clock_timestamp();

-- name: list_sessions :many
-- A user's sessions before (not null) one of them, the newest first; with or without those that are over.
-- Index  sessions_by_user
SELECT s.*, s.expires_at <= clock_timestamp() AS is_past
  FROM sessions AS s
 WHERE s.user_id = @user::uuid
   AND s.id < coalesce(@before::uuid, 'ffffffff-ffff-ffff-ffff-ffffffffffff')
   AND (@everything::boolean OR (s.is_active AND s.expires_at > clock_timestamp()))
 ORDER BY s.id DESC
 LIMIT @count::bigint
OFFSET @skip::bigint;

-- name: count_sessions :many
-- How many sessions a user has and had, by platform.
-- Index  sessions_by_user
SELECT s.platform, count(*) AS sessions,
       count(*) FILTER (WHERE s.is_active AND s.expires_at > clock_timestamp()) AS active
  FROM sessions AS s
 WHERE s.user_id = @user::uuid
 GROUP BY s.platform
 ORDER BY s.platform;

-- name: change_session :maybe
-- What a live session's device says of itself (null: nothing new), and that it was here.
-- Locks  the session.
-- Index  sessions_pkey
   UPDATE sessions
      SET device_name = coalesce(@device_name::text, device_name),
          device_model = coalesce(@device_model::text, device_model),
          os_version = coalesce(@os_version::text, os_version),
          app_version = coalesce(@app_version::text, app_version),
          push_token = coalesce(@push_token::text, push_token),
          push_token_updated_at = CASE WHEN @push_token::text IS NULL THEN push_token_updated_at
                                       ELSE clock_timestamp() END,
          last_activity_at = clock_timestamp()
    WHERE id = @id::uuid AND is_active AND expires_at > clock_timestamp()
RETURNING *;

-- name: extend_session :maybe
-- Put off the end of a live session by whole days, not beyond so many from now.
-- Locks  the session.
-- Index  sessions_pkey
   UPDATE sessions
      SET expires_at = expires_at + make_interval(days => @days::integer)
    WHERE id = @id::uuid AND is_active AND expires_at > clock_timestamp()
      AND expires_at + make_interval(days => @days::integer)
          <= clock_timestamp() + make_interval(days => @most::integer)
RETURNING *;

-- name: end_session :maybe
-- End one session, if it has not ended yet.
-- Locks  the session.
-- Index  sessions_pkey
   UPDATE sessions
      SET is_active = false, terminated_at = clock_timestamp(), termination_reason = @reason::text
    WHERE id = @id::uuid AND is_active
RETURNING *;
