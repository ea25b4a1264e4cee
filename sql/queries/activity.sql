-- name: insert_activity :one
-- Write down what users did, each so many seconds ago. What a statement wrote whose answer was lost is not
-- written again: it is known by its id, by the key of every month's partition. Of who was erased while it waited
-- nothing personal is written.
WITH written AS (
    INSERT INTO activity_logs (id, user_id, session_id, action, details, ip_address, user_agent, created_at)
    SELECT n.id, n.user_id, n.session_id, n.action, CASE WHEN u.id IS NULL THEN n.details::jsonb END,
           CASE WHEN u.id IS NULL THEN n.ip_address END, CASE WHEN u.id IS NULL THEN n.user_agent END,
           clock_timestamp() - make_interval(secs => n.age)
      FROM unnest(@ids::uuid[], @users::uuid[], @sessions::uuid[], @actions::text[], @details::text[],
                  @addresses::text[], @agents::text[], @ages::float8[])
           AS n (id, user_id, session_id, action, details, ip_address, user_agent, age)
      LEFT JOIN users AS u ON u.id = n.user_id AND u.erased_at IS NOT NULL
     WHERE NOT EXISTS (SELECT 1 FROM activity_logs AS a WHERE a.id = n.id)
    RETURNING id
)
SELECT count(*) AS written FROM written;

-- name: partition_activity :one
-- Make and throw away the months of activity; see functions/partition_activity.sql.
SELECT partition_activity(@days::integer) AS changed;

-- name: list_activity :many
-- What anybody did, newest first, after a cursor. By activity_logs_by_time, in every month's partition.
SELECT a.id, a.user_id, a.session_id, a.action, a.details::text, a.ip_address, a.user_agent, a.created_at
  FROM activity_logs AS a
 WHERE (a.created_at, a.id) < (coalesce(@before::timestamptz, 'infinity'),
                               coalesce(@before_id::uuid, 'ffffffff-ffff-ffff-ffff-ffffffffffff'))
   AND (@session::uuid IS NULL OR a.session_id = @session)
   AND (@action::text IS NULL OR a.action = @action)
   AND a.created_at >= coalesce(@since::timestamptz, '-infinity')
   AND a.created_at <= coalesce(@until::timestamptz, 'infinity')
 ORDER BY a.created_at DESC, a.id DESC
 LIMIT @count::bigint
OFFSET @skip::bigint;

-- name: list_activity_of_user :many
-- What one user did, newest first, after a cursor. By activity_logs_by_user, in every month's partition.
SELECT a.id, a.user_id, a.session_id, a.action, a.details::text, a.ip_address, a.user_agent, a.created_at
  FROM activity_logs AS a
 WHERE a.user_id = @user
   AND (a.created_at, a.id) < (coalesce(@before::timestamptz, 'infinity'),
                               coalesce(@before_id::uuid, 'ffffffff-ffff-ffff-ffff-ffffffffffff'))
   AND (@session::uuid IS NULL OR a.session_id = @session)
   AND (@action::text IS NULL OR a.action = @action)
   AND a.created_at >= coalesce(@since::timestamptz, '-infinity')
   AND a.created_at <= coalesce(@until::timestamptz, 'infinity')
 ORDER BY a.created_at DESC, a.id DESC
 LIMIT @count::bigint
OFFSET @skip::bigint;

-- name: count_activity :one
-- How many rows a list has, counted up to a bound.
SELECT count(*) AS items
  FROM (SELECT 1
          FROM activity_logs AS a
         WHERE (@user::uuid IS NULL OR a.user_id = @user)
           AND (@session::uuid IS NULL OR a.session_id = @session)
           AND (@action::text IS NULL OR a.action = @action)
           AND a.created_at >= coalesce(@since::timestamptz, '-infinity')
           AND a.created_at <= coalesce(@until::timestamptz, 'infinity')
         LIMIT @most::bigint) AS counted;

-- name: sum_activity :many
-- How often each action was done, the most frequent first.
  SELECT a.action, count(*) AS times
    FROM activity_logs AS a
   WHERE (@user::uuid IS NULL OR a.user_id = @user)
     AND (@session::uuid IS NULL OR a.session_id = @session)
     AND (@action::text IS NULL OR a.action = @action)
     AND a.created_at >= coalesce(@since::timestamptz, '-infinity')
     AND a.created_at <= coalesce(@until::timestamptz, 'infinity')
GROUP BY a.action
ORDER BY times DESC, a.action;
