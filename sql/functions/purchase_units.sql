-- purchase_units: turn live holds into purchases, each at most once.
--
-- A hold is bought only before its deadline by this server's clock, whether or not anybody swept,
-- and only by its buyer (a null buyer stands for its owner). What is not returned was not bought
-- by this call: the caller looks up why. Running it twice is running it once, so a lost reply is
-- answered by calling it again. With p_action null the caller records them for the ledger (sell_holds).
--
-- Locks  reservations by id, allowances by drop and buyer (end_cool_downs), then as sell_holds.
-- Index  reservations_pkey, purchases_one_per_request
CREATE OR REPLACE FUNCTION purchase_units(
    p_requests uuid[], p_ids uuid[], p_reservations uuid[], p_buyers text[], p_references text[],
    p_action text DEFAULT 'PURCHASED'
)
    RETURNS TABLE (
        drop_id bigint, epoch bigint, version bigint,
        free integer, held integer, sold integer, withdrawn integer, total integer,
        bought uuid[], ids uuid[], amounts bigint[], quantities integer[], buyers text[], numbers integer[],
        currency text, purchased_at timestamptz, names text[]
    )
    LANGUAGE plpgsql
    SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off
    SET plan_cache_mode = force_generic_plan SET random_page_cost = 0.1
AS $$
DECLARE
    v_now           timestamptz;
    v_reservations  uuid[];
    v_ids           uuid[];
    v_requests      uuid[];
    v_references    text[];
    v_cools         boolean;
BEGIN
    -- All of them, before any is judged: a deadline may be moved by who has the row. And what an earlier
    -- run bought may be on this node only: a lock is a write, and to commit it waits for the standby.
    PERFORM FROM reservations AS r WHERE r.id = ANY (p_reservations) ORDER BY r.id FOR UPDATE;
    v_now := clock_timestamp();  -- after the locks: a deadline that passed while we waited has passed

    -- Of two wishes for one hold the second finds it taken; a stranger's must not crowd out the owner's.
    -- Whatever the statistics say, only these holds may be read: hence the ids twice, or all holds ever
    -- would be compared with each wish by a plan made when there was one; and the state as text, or the
    -- index of deadlines would do.
    WITH closed AS (
        UPDATE reservations AS r
           SET state = 'purchased', ended_at = v_now
          FROM (SELECT u.*
                  FROM unnest(p_requests, p_ids, p_reservations, p_buyers, p_references)
                       AS u (request_id, id, reservation_id, buyer, reference)
                 ORDER BY u.reservation_id, u.id) AS w
         WHERE r.id = w.reservation_id
           AND r.id = ANY (p_reservations)
           AND r.state::text IN ('active', 'paying')
           AND r.expires_at > v_now
           AND r.buyer = coalesce(w.buyer, r.buyer)
           AND NOT EXISTS (SELECT FROM purchases WHERE purchases.request_id = w.request_id)
     RETURNING w.reservation_id, w.id, w.request_id, w.reference
    )
    SELECT array_agg(c.reservation_id), array_agg(c.id), array_agg(c.request_id), array_agg(c.reference),
           EXISTS (SELECT FROM drops WHERE drops.cooldown_factor > 0)
      INTO v_reservations, v_ids, v_requests, v_references, v_cools
      FROM closed AS c;
    IF v_ids IS NULL THEN
        RETURN;
    END IF;
    IF v_cools THEN
        PERFORM end_cool_downs(v_reservations);
    END IF;
    RETURN QUERY SELECT * FROM sell_holds(v_reservations, v_ids, v_requests, v_references, v_now, p_action);
END
$$;
