-- extend_hold: let a live hold run for its own time once more, once, up to its drop's longest life.
--
-- Only before the deadline, before payment, and only by its buyer (a null buyer stands for its
-- owner). No row: it was not extended by this call, and the caller looks up why.
--
-- Locks  the reservation.
-- Index  reservations_pkey
CREATE OR REPLACE FUNCTION extend_hold(p_reservation uuid, p_buyer text)
    RETURNS TABLE (drop_id bigint, expires_at timestamptz, lives_ms bigint)
    LANGUAGE plpgsql
AS $$
DECLARE
    v_now timestamptz;
BEGIN
    PERFORM FROM reservations WHERE reservations.id = p_reservation FOR UPDATE;
    -- After the lock: a deadline that passed while we waited has passed.
    v_now := clock_timestamp();
    RETURN QUERY
      WITH extended AS (
          UPDATE reservations AS r
             SET extended_at = v_now,
                 expires_at = least(r.expires_at + (r.expires_at - r.created_at),
                                    r.created_at + make_interval(secs => d.max_hold_seconds))
            FROM drops AS d
           WHERE d.id = r.drop_id
             AND r.id = p_reservation
             AND r.state = 'active'
             AND r.expires_at > v_now
             AND r.extended_at IS NULL
             AND r.buyer = coalesce(p_buyer, r.buyer)
             AND r.expires_at < r.created_at + make_interval(secs => d.max_hold_seconds)
       RETURNING r.id, r.drop_id, r.expires_at
      ), told AS (
          INSERT INTO outbox (drop_id, epoch, version, kind, subjects)
          SELECT x.drop_id, e.epoch, s.version, 'extended', ARRAY[x.id]
            FROM extended AS x
            JOIN stock AS s ON s.drop_id = x.drop_id
           CROSS JOIN engine_state AS e
      )
      SELECT x.drop_id, x.expires_at, (extract(epoch FROM x.expires_at - v_now) * 1000)::bigint
        FROM extended AS x;
END
$$;
