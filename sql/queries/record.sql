-- name: find_request :maybe
-- The answer this request got, if it was done.
SELECT fingerprint, status, body FROM requests WHERE id = @id;

-- name: claim_request :maybe
-- Make this request ours before its effect is written. A copy waits here until we have committed,
-- and then gets no row.
INSERT INTO requests (id, fingerprint, status, body)
VALUES (@id, @fingerprint, 0, '')
    ON CONFLICT (id) DO NOTHING
RETURNING id;

-- name: answer_request :one
-- Write the answer of a claimed request.
UPDATE requests SET status = @status, body = @body WHERE id = @id RETURNING id;

-- name: prune_requests :one
-- Forget answers older than the retention. Bounded, so that it never holds a lock for long.
WITH gone AS (
    DELETE FROM requests
     WHERE id = ANY (ARRAY(SELECT r.id
                             FROM requests AS r
                            WHERE r.created_at < clock_timestamp() - make_interval(hours => @hours::integer)
                            LIMIT @count::bigint))
    RETURNING id
)
SELECT count(*) AS pruned FROM gone;

-- name: prune_outbox :one
-- Forget facts older than the retention.
WITH gone AS (
    DELETE FROM outbox
     WHERE id = ANY (ARRAY(SELECT o.id
                             FROM outbox AS o
                            WHERE o.created_at < clock_timestamp() - make_interval(hours => @hours::integer)
                            ORDER BY o.id
                            LIMIT @count::bigint))
    RETURNING id
)
SELECT count(*) AS pruned FROM gone;
