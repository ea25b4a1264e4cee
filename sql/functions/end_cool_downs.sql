-- end_cool_downs: who buys one of these holds need not wait any more, and starts anew.
--
-- Locks  allowances by drop and buyer, of buyers who let a hold go before.
-- Index  drops_that_cool, reservations_pkey, allowances_pkey
CREATE OR REPLACE FUNCTION end_cool_downs(p_reservations uuid[])
    RETURNS void
    LANGUAGE plpgsql
    SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off
AS $$
BEGIN
    IF NOT EXISTS (SELECT FROM drops WHERE drops.cooldown_factor > 0) THEN
        RETURN;
    END IF;

    PERFORM FROM (SELECT DISTINCT r.drop_id, r.buyer FROM reservations AS r
                   WHERE r.id = ANY (p_reservations)
                   ORDER BY r.drop_id, r.buyer) AS b
      CROSS JOIN LATERAL (SELECT FROM allowances AS a
                           WHERE a.drop_id = b.drop_id AND a.buyer = b.buyer AND a.cools_until IS NOT NULL
                             FOR UPDATE) AS locked;
    UPDATE allowances AS a
       SET abandoned = 0, cools_until = NULL
      FROM (SELECT DISTINCT r.drop_id, r.buyer FROM reservations AS r WHERE r.id = ANY (p_reservations)) AS b
     WHERE a.ctid = (SELECT k.ctid FROM allowances AS k WHERE k.drop_id = b.drop_id AND k.buyer = b.buyer)
       AND a.cools_until IS NOT NULL;
END
$$;
