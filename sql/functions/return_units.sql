-- return_units: the shared end of release_holds and expire_holds. The caller has locked the
-- reservations and knows that they are live; their units go back on sale at the queue's end.
--
-- Locks  allowances by drop and buyer, stock rows by drop. The units are new rows.
-- Index  reservations_pkey, units_pkey, allowances_pkey
CREATE OR REPLACE FUNCTION return_units(p_reservations uuid[], p_state reservation_state)
    RETURNS TABLE (
        drop_id bigint, epoch bigint, version bigint,
        free integer, held integer, sold integer, withdrawn integer, total integer,
        returned uuid[], buyers text[], quantities integer[]
    )
    LANGUAGE plpgsql
    SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off
AS $$
BEGIN
    UPDATE reservations SET state = p_state, ended_at = clock_timestamp()
     WHERE reservations.id = ANY (p_reservations);

    -- Each buyer is looked up by himself, here and below: joined by drop and buyer, all of the drop's are
    -- read by a plan made while they were few.
    PERFORM FROM (SELECT DISTINCT r.drop_id, r.buyer FROM reservations AS r
                   WHERE r.id = ANY (p_reservations)
                   ORDER BY r.drop_id, r.buyer) AS b
      CROSS JOIN LATERAL (SELECT FROM allowances AS a
                           WHERE a.drop_id = b.drop_id AND a.buyer = b.buyer
                             FOR UPDATE) AS locked;
    UPDATE allowances AS a
       SET used = a.used - b.units
      FROM (SELECT r.drop_id, r.buyer, sum(r.quantity)::integer AS units
              FROM reservations AS r
             WHERE r.id = ANY (p_reservations)
             GROUP BY r.drop_id, r.buyer) AS b
     WHERE a.ctid = (SELECT k.ctid FROM allowances AS k WHERE k.drop_id = b.drop_id AND k.buyer = b.buyer);
    PERFORM cool_down(p_reservations);

    -- What lies on the shelf already was put there by hand: it stays, and the others still come back.
    -- A scalar look-up, for NOT EXISTS becomes a join, planned while a sold-out shelf is empty.
    INSERT INTO units (drop_id, number, position)
    SELECT u.drop_id, u.number, nextval('unit_positions')
      FROM (SELECT DISTINCT r.drop_id, n.number  -- one unit in two hands is a damage; it returns once
              FROM reservations AS r
             CROSS JOIN LATERAL unnest(r.units) AS n (number)
             WHERE r.id = ANY (p_reservations)) AS u
     WHERE (SELECT units.number FROM units WHERE units.drop_id = u.drop_id AND units.number = u.number) IS NULL;

    PERFORM FROM stock
      WHERE stock.drop_id IN (SELECT r.drop_id FROM reservations AS r WHERE r.id = ANY (p_reservations))
      ORDER BY stock.drop_id FOR UPDATE;

    RETURN QUERY
      WITH sums AS (
          SELECT r.drop_id, sum(r.quantity)::integer AS units, array_agg(r.id) AS ids,
                 array_agg(r.buyer) AS buyers, array_agg(r.quantity) AS quantities
            FROM reservations AS r
           WHERE r.id = ANY (p_reservations)
           GROUP BY r.drop_id
      ), counted AS (
          UPDATE stock
             SET version = stock.version + 1,
                 free = stock.free + sums.units,
                 held = stock.held - sums.units,
                 changed_at = clock_timestamp()
            FROM sums
           WHERE stock.drop_id = sums.drop_id
       RETURNING stock.*, sums.ids, sums.buyers, sums.quantities
      ), told AS (
          INSERT INTO outbox (drop_id, epoch, version, kind, subjects)
          SELECT c.drop_id, e.epoch, c.version, p_state::text, c.ids
            FROM counted AS c CROSS JOIN engine_state AS e
      )
      SELECT c.drop_id, e.epoch, c.version, c.free, c.held, c.sold, c.withdrawn, c.total,
             c.ids, c.buyers, c.quantities
        FROM counted AS c CROSS JOIN engine_state AS e;
END
$$;
