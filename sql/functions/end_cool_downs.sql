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

    WITH cooled AS (
        SELECT a.drop_id, a.buyer
          FROM allowances AS a
          JOIN (SELECT DISTINCT r.drop_id, r.buyer FROM reservations AS r WHERE r.id = ANY (p_reservations)) AS b
            ON a.drop_id = b.drop_id AND a.buyer = b.buyer
         WHERE a.cools_until IS NOT NULL
         ORDER BY a.drop_id, a.buyer
           FOR UPDATE OF a
    )
    UPDATE allowances AS a
       SET abandoned = 0, cools_until = NULL
      FROM cooled AS c
     WHERE a.drop_id = c.drop_id AND a.buyer = c.buyer;
END
$$;
