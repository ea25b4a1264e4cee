-- name: read_facts :many
-- What was told after a position, and at positions that were passed while somebody had them in his
-- hands; always the epoch, if there is nothing else. Subjects only where somebody asks for them.
-- Index  outbox_pkey
SELECT e.epoch AS present, clock_timestamp() AS now, f.id, f.drop_id, f.kind, f.created_at, cardinality(f.subjects) AS count,
       CASE WHEN @named::boolean THEN f.subjects END AS subjects
  FROM engine_state AS e
  LEFT JOIN LATERAL (
       (SELECT o.* FROM outbox AS o WHERE o.id > @after::bigint ORDER BY o.id LIMIT @most::bigint)
       UNION ALL
       SELECT o.* FROM outbox AS o WHERE o.id = ANY (@gaps::bigint[])) AS f ON true
 ORDER BY f.id;

-- name: newest_fact :one
-- Where the outbox ends now, the epoch, the time, and which of the numbers before it are missing: rolled back, or
-- not committed yet.
-- Index  outbox_pkey
SELECT e.epoch AS present, clock_timestamp() AS now, coalesce(l.id, 0) AS id,
       ARRAY(SELECT generate_series(greatest(l.id - 200, 1), l.id - 1)
             EXCEPT
             SELECT o.id FROM outbox AS o WHERE o.id BETWEEN l.id - 200 AND l.id) AS missing
  FROM engine_state AS e
  LEFT JOIN LATERAL (SELECT o.id FROM outbox AS o ORDER BY o.id DESC LIMIT 1) AS l ON true;
