-- cool_down: holds of these that ended unbought make their buyers wait, where the drop says so.
--
-- Factor times the seconds it was held, times its units, doubled with each further one in a row, a
-- day at most. From the hold's own end: a late sweeper lengthens nothing. What several holds of one
-- buyer add up to does not depend on which of them are swept together.
--
-- Locks  allowances by drop and buyer, which return_units has locked.
-- Index  drops_that_cool, reservations_pkey, drops_pkey, allowances_pkey
CREATE OR REPLACE FUNCTION cool_down(p_reservations uuid[])
    RETURNS void
    LANGUAGE plpgsql
    SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off
AS $$
BEGIN
    IF NOT EXISTS (SELECT FROM drops WHERE drops.cooldown_factor > 0) THEN
        RETURN;
    END IF;

    WITH ended AS (
        SELECT r.drop_id, r.buyer, least(r.expires_at, r.ended_at) AS at,
               extract(epoch FROM least(r.expires_at, r.ended_at) - r.created_at)::float8
                   * r.quantity * d.cooldown_factor AS seconds,
               a.abandoned - 1 + row_number() OVER (PARTITION BY r.drop_id, r.buyer
                                                        ORDER BY least(r.expires_at, r.ended_at), r.id) AS before
          FROM reservations AS r
          JOIN drops AS d ON d.id = r.drop_id
         CROSS JOIN LATERAL (SELECT k.abandoned FROM allowances AS k
                              WHERE k.drop_id = r.drop_id AND k.buyer = r.buyer OFFSET 0) AS a
         WHERE r.id = ANY (p_reservations)
           AND d.cooldown_factor > 0
    ), waits AS (
        SELECT e.drop_id, e.buyer, count(*)::integer AS holds,
               max(e.at + make_interval(secs => least(e.seconds * 2 ^ least(e.before, 40), 86400))) AS until
          FROM ended AS e
         GROUP BY e.drop_id, e.buyer
    )
    UPDATE allowances AS a
       SET abandoned = a.abandoned + w.holds,
           cools_until = greatest(a.cools_until, w.until)
      FROM waits AS w
     WHERE a.ctid = (SELECT k.ctid FROM allowances AS k WHERE k.drop_id = w.drop_id AND k.buyer = w.buyer);
END
$$;
