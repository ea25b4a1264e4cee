-- return_units: the shared end of release_holds and expire_holds. The caller has locked the
-- reservations and knows that they are live; their units go back on sale at the queue's end. Named ones
-- go back to their place, and nobody has them any more; `numbers` says which, and is null for others.
--
-- Locks  allowances by drop and buyer, picks, stock rows by drop. The units are new rows.
-- Index  reservations_pkey, units_pkey, allowances_pkey, drops_pkey, a_named_unit_has_one_live_owner
CREATE OR REPLACE FUNCTION return_units(p_reservations uuid[], p_state reservation_state)
    RETURNS TABLE (
        drop_id bigint, epoch bigint, version bigint,
        free integer, held integer, sold integer, withdrawn integer, total integer,
        returned uuid[], buyers text[], quantities integer[], numbers integer[]
    )
    LANGUAGE plpgsql
    SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off
AS $$
DECLARE
    v_named bigint[];  -- those of their drops whose units have names
BEGIN
    WITH ended AS (
        UPDATE reservations AS r SET state = p_state, ended_at = clock_timestamp()
         WHERE r.id = ANY (p_reservations)
     RETURNING r.drop_id
    )
    SELECT coalesce(array_agg(d.id), '{}')
      INTO v_named
      FROM (SELECT DISTINCT ended.drop_id FROM ended) AS e
      JOIN drops AS d ON d.id = e.drop_id
     WHERE d.pick = 'named';

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
    SELECT u.drop_id, u.number,
           CASE WHEN u.drop_id = ANY (v_named) THEN u.number ELSE nextval('unit_positions') END
      FROM (SELECT DISTINCT r.drop_id, n.number  -- one unit in two hands is a damage; it returns once
              FROM reservations AS r
             CROSS JOIN LATERAL unnest(r.units) AS n (number)
             WHERE r.id = ANY (p_reservations)) AS u
     WHERE (SELECT units.number FROM units WHERE units.drop_id = u.drop_id AND units.number = u.number) IS NULL;

    IF v_named <> '{}' THEN
        DELETE FROM picks AS p
         WHERE p.ctid = ANY (ARRAY(SELECT (SELECT k.ctid FROM picks AS k
                                            WHERE k.drop_id = r.drop_id AND k.number = n.number
                                              AND k.reservation_id = r.id)
                                     FROM reservations AS r
                                    CROSS JOIN LATERAL unnest(r.units) AS n (number)
                                    WHERE r.id = ANY (p_reservations) AND r.drop_id = ANY (v_named)));
    END IF;

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
             c.ids, c.buyers, c.quantities,
             CASE WHEN c.drop_id = ANY (v_named)
                  THEN ARRAY(SELECT n.number
                               FROM reservations AS r
                              CROSS JOIN LATERAL unnest(r.units) AS n (number)
                              WHERE r.id = ANY (p_reservations) AND r.drop_id = c.drop_id) END
        FROM counted AS c CROSS JOIN engine_state AS e;
END
$$;
