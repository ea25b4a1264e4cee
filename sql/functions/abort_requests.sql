-- abort_requests: make the outcome of claims whose reply was lost definite.
--
-- A tombstone is written for each request that has no hold. The unique index makes us wait for a
-- claim of the same request that is still running, so "aborted" cannot be said before a commit we
-- did not see; and a claim of that attempt that arrives later finds the tombstone and is blocked.
-- `words` says held or aborted, in the order of the arrays, which are sorted by request.
--
-- Locks  reservations by request
-- Index  reservations_one_per_request
CREATE OR REPLACE FUNCTION abort_requests(
    p_drop bigint, p_requests uuid[], p_attempts bigint[], p_buyers text[], p_quantities integer[],
    OUT words text[], OUT epoch bigint, OUT version bigint,
    OUT free integer, OUT held integer, OUT sold integer, OUT withdrawn integer, OUT total integer
)
    LANGUAGE plpgsql
    SET enable_seqscan = off
AS $$
BEGIN
    INSERT INTO reservations AS r (id, request_id, attempt, drop_id, amount_cents, created_at,
                                   expires_at, quantity, available, state, buyer, units)
    SELECT gen_random_uuid(), w.request_id, w.attempt, p_drop, 0, clock_timestamp(),
           clock_timestamp(), w.quantity, 0, 'aborted', w.buyer, '{}'
      FROM unnest(p_requests, p_attempts, p_buyers, p_quantities)
           AS w (request_id, attempt, buyer, quantity)
        ON CONFLICT (request_id) DO UPDATE
       SET attempt = excluded.attempt
     WHERE r.state = 'aborted' AND r.attempt < excluded.attempt;

    SELECT array_agg(CASE WHEN r.state = 'aborted' THEN 'aborted' ELSE 'held' END ORDER BY w.i)
      INTO words
      FROM unnest(p_requests) WITH ORDINALITY AS w (request_id, i)
      JOIN reservations AS r ON r.request_id = w.request_id
     WHERE r.request_id = ANY (p_requests);  -- or all may be compared with each

    SELECT engine_state.epoch INTO epoch FROM engine_state;
    SELECT stock.version, stock.free, stock.held, stock.sold, stock.withdrawn, stock.total
      INTO version, free, held, sold, withdrawn, total
      FROM stock
     WHERE stock.drop_id = p_drop;
END
$$;
