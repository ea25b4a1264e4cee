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
-- What became of credentials since the snapshot of the look before (null: there was none), and the snapshot of
-- this one. Each change is told once, when it is committed, however long its transaction took.
-- Index  credential_changes_by_xid
SELECT n.snapshot::text, clock_timestamp() AS now,
       coalesce(pg_snapshot_xmin(n.snapshot) < pg_snapshot_xmin(@before::text::pg_snapshot), true) AS is_rewound,
       c.kinds, c.subjects
  FROM pg_current_snapshot() AS n (snapshot)
 CROSS JOIN LATERAL (
       SELECT array_agg(x.kind) AS kinds, array_agg(x.subject_id) AS subjects
         FROM credential_changes AS x
        WHERE x.xid >= pg_snapshot_xmin(@before::text::pg_snapshot)
          AND NOT pg_visible_in_snapshot(x.xid, @before::text::pg_snapshot)) AS c;

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
