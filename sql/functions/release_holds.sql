-- release_holds: give live holds back because their buyers said so.
--
-- Only before the deadline, and only by the buyer (a null buyer stands for the owner). What is not
-- returned was not released by this call: the caller looks up why.
--
-- Locks  reservations by id, then as return_units.
-- Index  reservations_pkey
CREATE OR REPLACE FUNCTION release_holds(p_reservations uuid[], p_buyers text[])
    RETURNS TABLE (
        drop_id bigint, epoch bigint, version bigint,
        free integer, held integer, sold integer, withdrawn integer, total integer,
        returned uuid[], buyers text[], quantities integer[], numbers integer[]
    )
    LANGUAGE plpgsql
    SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off
AS $$
DECLARE
    v_live uuid[];
BEGIN
    PERFORM FROM reservations WHERE reservations.id = ANY (p_reservations) ORDER BY reservations.id FOR UPDATE;
    SELECT array_agg(DISTINCT r.id)
      INTO v_live
      FROM unnest(p_reservations, p_buyers) AS w (id, buyer)
      JOIN reservations AS r ON r.id = w.id
     WHERE r.id = ANY (p_reservations)  -- or a plan made when there was one hold compares all with each
       AND r.state::text IN ('active', 'paying')  -- as text: else all live ones may be read for a few
       AND r.expires_at > clock_timestamp()
       AND r.buyer = coalesce(w.buyer, r.buyer);
    IF v_live IS NOT NULL THEN
        RETURN QUERY SELECT * FROM return_units(v_live, 'released');
    END IF;
END
$$;
