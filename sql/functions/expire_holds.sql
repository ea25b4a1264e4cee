-- expire_holds: free what ran out, of one drop or (null) of all, oldest deadline first, at most
-- p_limit holds.
--
-- Any number may run: SKIP LOCKED lets two sweepers share the work, and steps over holds that a
-- confirm has in its hands.
--
-- Locks  due reservations (SKIP LOCKED), then as return_units.
-- Index  reservations_by_deadline
CREATE OR REPLACE FUNCTION expire_holds(p_drop bigint, p_limit integer)
    RETURNS TABLE (
        drop_id bigint, epoch bigint, version bigint,
        free integer, held integer, sold integer, withdrawn integer, total integer,
        returned uuid[], buyers text[], quantities integer[], numbers integer[]
    )
    LANGUAGE plpgsql
    SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off
AS $$
DECLARE
    v_due uuid[];
    v_now timestamptz := clock_timestamp();  -- a constant can be looked up in the index, a clock cannot
BEGIN
    SELECT array_agg(due.id)
      INTO v_due
      FROM (SELECT r.id
              FROM reservations AS r
             WHERE r.state IN ('active', 'paying')
               AND r.expires_at <= v_now
               AND (p_drop IS NULL OR r.drop_id = p_drop)
             ORDER BY r.expires_at
             LIMIT p_limit
               FOR UPDATE SKIP LOCKED) AS due;
    IF v_due IS NOT NULL THEN
        RETURN QUERY SELECT * FROM return_units(v_due, 'expired');
    END IF;
END
$$;
