-- purchase_units: turn live holds into purchases, each at most once.
--
-- A hold is bought only before its deadline by this server's clock, whether or not anybody swept,
-- and only by its buyer (a null buyer stands for its owner). What is not returned was not bought
-- by this call: the caller looks up why. Running it twice is running it once, so a lost reply is
-- answered by calling it again.
--
-- Locks  reservations by id, allowances by drop and buyer (end_cool_downs), then as sell_holds.
-- Index  reservations_pkey, purchases_one_per_request
CREATE OR REPLACE FUNCTION purchase_units(
    p_requests uuid[], p_ids uuid[], p_reservations uuid[], p_buyers text[], p_references text[]
)
    RETURNS TABLE (
        drop_id bigint, epoch bigint, version bigint,
        free integer, held integer, sold integer, withdrawn integer, total integer,
        bought uuid[]
    )
    LANGUAGE plpgsql
    SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off
AS $$
DECLARE
    v_now           timestamptz;
    v_reservations  uuid[];
    v_ids           uuid[];
    v_requests      uuid[];
    v_references    text[];
BEGIN
    PERFORM FROM reservations WHERE reservations.id = ANY (p_reservations) ORDER BY reservations.id FOR UPDATE;
    -- After the locks: a deadline that passed while we waited has passed.
    v_now := clock_timestamp();

    SELECT array_agg(w.reservation_id), array_agg(w.id), array_agg(w.request_id), array_agg(w.reference)
      INTO v_reservations, v_ids, v_requests, v_references
      FROM (SELECT DISTINCT ON (u.reservation_id) u.*
              FROM unnest(p_requests, p_ids, p_reservations, p_buyers, p_references)
                   AS u (request_id, id, reservation_id, buyer, reference)
              JOIN reservations AS r ON r.id = u.reservation_id
             WHERE r.state IN ('active', 'paying')
               AND r.expires_at > v_now
               AND r.buyer = coalesce(u.buyer, r.buyer)  -- a stranger's wish must not crowd out the owner's
               AND NOT EXISTS (SELECT FROM purchases WHERE purchases.request_id = u.request_id)
             ORDER BY u.reservation_id, u.id) AS w;
    IF v_ids IS NOT NULL THEN
        PERFORM end_cool_downs(v_reservations);
        RETURN QUERY SELECT * FROM sell_holds(v_reservations, v_ids, v_requests, v_references, v_now);
    END IF;
END
$$;
