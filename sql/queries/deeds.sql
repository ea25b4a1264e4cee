-- name: begin_deed :one
-- What an operator is about to do.
INSERT INTO audit_log (who, operation, target, change, request_id, address)
VALUES (@who, @operation, @target, @change::text::jsonb, @request_id, @address)
RETURNING id;

-- name: end_deed :one
-- How it ended; told twice it is one row, by audit_log_one_end_an_act. What was made has its name only now.
WITH ended AS (
    INSERT INTO audit_log (began, who, operation, target, outcome, status, request_id)
    VALUES (@began, @who, @operation, @target, @outcome, @status, @request_id)
        ON CONFLICT (began) WHERE began IS NOT NULL DO NOTHING
    RETURNING id
)
SELECT count(*) AS rows FROM ended;

-- name: refuse_deed :one
-- What somebody tried who may not.
INSERT INTO audit_log (who, operation, target, outcome, status, request_id, address)
VALUES (@who, @operation, @target, @outcome, @status, @request_id, @address)
RETURNING id;

-- name: list_deeds :many
-- What operators did, and others tried, newest first, after a cursor. Of what has no end nobody knows it: it is
-- under way, or its process died.
-- Index  audit_log_pkey
SELECT a.id, a.who, a.operation, coalesce(a.target, e.target) AS target, a.change::text AS change,
       coalesce(e.outcome, a.outcome, 'unknown') AS outcome, coalesce(e.status, a.status) AS status,
       a.request_id, a.address, a.at, e.at AS ended_at
  FROM audit_log AS a
  LEFT JOIN LATERAL (SELECT * FROM audit_log AS x WHERE x.began = a.id OFFSET 0) AS e ON true
 WHERE a.began IS NULL
   AND a.id < coalesce(@before::bigint, 9223372036854775807)
   AND (@who::text IS NULL OR a.who = @who)
   AND (@operation::text IS NULL OR a.operation = @operation)
   AND (@outcome::text IS NULL OR coalesce(e.outcome, a.outcome, 'unknown') = @outcome)
   AND a.at >= coalesce(@since::timestamptz, '-infinity')
   AND a.at <= coalesce(@until::timestamptz, 'infinity')
 ORDER BY a.id DESC
 LIMIT @count::bigint
OFFSET @skip::bigint;

-- name: count_deeds :one
-- How many acts a list has, counted up to a bound.
SELECT count(*) AS items
  FROM (SELECT 1
          FROM audit_log AS a
          LEFT JOIN LATERAL (SELECT * FROM audit_log AS x WHERE x.began = a.id OFFSET 0) AS e ON true
         WHERE a.began IS NULL
           AND (@who::text IS NULL OR a.who = @who)
           AND (@operation::text IS NULL OR a.operation = @operation)
           AND (@outcome::text IS NULL OR coalesce(e.outcome, a.outcome, 'unknown') = @outcome)
           AND a.at >= coalesce(@since::timestamptz, '-infinity')
           AND a.at <= coalesce(@until::timestamptz, 'infinity')
         LIMIT @most::bigint) AS counted;
