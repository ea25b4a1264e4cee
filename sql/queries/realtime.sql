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
-- Where the outbox ends now, the epoch, and the time.
-- Index  outbox_pkey
SELECT e.epoch AS present, clock_timestamp() AS now, coalesce((SELECT o.id FROM outbox AS o ORDER BY o.id DESC LIMIT 1), 0) AS id
  FROM engine_state AS e;
