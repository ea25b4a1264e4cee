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
