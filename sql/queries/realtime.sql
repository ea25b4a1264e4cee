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

-- name: free_units :many
-- Of some named drops, which units are on the shelf, and at which version of their figures. Of drops with more
-- units than that nothing: telling them one by one would cost more than asking.
-- Index  units_free_by_position
SELECT s.drop_id, e.epoch AS present, s.version,
       ARRAY(SELECT u.number FROM units AS u WHERE u.drop_id = s.drop_id AND u.state = 'free') AS numbers
  FROM stock AS s
  JOIN drops AS d ON d.id = s.drop_id
 CROSS JOIN engine_state AS e
 WHERE s.drop_id = ANY (@drops::bigint[])
   AND d.pick = 'named'
   AND d.total_stock <= @most::bigint;

-- name: live_slots :many
-- Slots as they stand, and whose hold is on them: those of some drops, or all, by name.
-- Index  slots_pkey
SELECT s.drop_id, s.number, n.name, s.temp_status, s.temperature::float8 AS temperature,
       s.target_temp::float8 AS target_temp, s.measured_at,
       CASE WHEN u.state = 'free' THEN 'AVAILABLE'
            WHEN r.state IN ('active', 'paying') THEN 'RESERVED'
            ELSE 'OCCUPIED' END AS status,
       CASE WHEN r.state IN ('active', 'paying') THEN r.expires_at END AS expires_at,
       r.id AS reservation_id, r.buyer
  FROM slots AS s
  JOIN unit_names AS n ON n.drop_id = s.drop_id AND n.number = s.number
  LEFT JOIN units AS u ON u.drop_id = s.drop_id AND u.number = s.number
  LEFT JOIN picks AS p ON p.drop_id = s.drop_id AND p.number = s.number
  LEFT JOIN reservations AS r ON r.id = p.reservation_id
 WHERE @drops::bigint[] IS NULL OR s.drop_id = ANY (@drops::bigint[])
 ORDER BY n.name
 LIMIT @most::bigint;

-- name: lapsed_slots :many
-- Which slots were held by holds that ran out, and by whom.
-- Index  reservations_pkey
SELECT r.id, r.drop_id, r.buyer, u.number
  FROM reservations AS r
 CROSS JOIN unnest(r.units) AS u (number)
  JOIN slots AS s ON s.drop_id = r.drop_id AND s.number = u.number
 WHERE r.id = ANY (@ids::uuid[]);
