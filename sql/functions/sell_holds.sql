-- sell_holds: the shared end of purchase_units and settle_payments. The caller has locked the
-- reservations and knows that they are live; the arrays run in parallel.
--
-- Locks  stock rows by drop. Of units nothing: they left the shelf when they were held.
-- Index  reservations_pkey
CREATE OR REPLACE FUNCTION sell_holds(
    p_reservations uuid[], p_ids uuid[], p_requests uuid[], p_references text[], p_now timestamptz
)
    RETURNS TABLE (
        drop_id bigint, epoch bigint, version bigint,
        free integer, held integer, sold integer, withdrawn integer, total integer,
        bought uuid[]
    )
    LANGUAGE plpgsql
    SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off
AS $$
BEGIN
    WITH closed AS (
        UPDATE reservations AS r
           SET state = 'purchased', ended_at = p_now
          FROM unnest(p_reservations, p_ids, p_requests, p_references)
               AS w (reservation_id, id, request_id, reference)
         WHERE r.id = w.reservation_id
     RETURNING w.id, w.request_id, w.reference, r.id AS reservation_id, r.drop_id, r.amount_cents,
               r.quantity, r.buyer, r.units
    )
    INSERT INTO purchases (id, request_id, reservation_id, drop_id, amount_cents, purchased_at,
                           quantity, buyer, units, payment_reference)
    SELECT c.id, c.request_id, c.reservation_id, c.drop_id, c.amount_cents, p_now,
           c.quantity, c.buyer, c.units, c.reference
      FROM closed AS c;

    PERFORM FROM stock
      WHERE stock.drop_id IN (SELECT r.drop_id FROM reservations AS r WHERE r.id = ANY (p_reservations))
      ORDER BY stock.drop_id FOR UPDATE;

    RETURN QUERY
      WITH sums AS (
          SELECT r.drop_id, sum(r.quantity)::integer AS units, array_agg(r.id) AS ids
            FROM reservations AS r
           WHERE r.id = ANY (p_reservations)
           GROUP BY r.drop_id
      ), counted AS (
          UPDATE stock
             SET version = stock.version + 1,
                 held = stock.held - sums.units,
                 sold = stock.sold + sums.units,
                 changed_at = p_now
            FROM sums
           WHERE stock.drop_id = sums.drop_id
       RETURNING stock.*, sums.ids
      ), told AS (
          INSERT INTO outbox (drop_id, epoch, version, kind, subjects)
          SELECT c.drop_id, e.epoch, c.version, 'purchased', c.ids
            FROM counted AS c CROSS JOIN engine_state AS e
      )
      SELECT c.drop_id, e.epoch, c.version, c.free, c.held, c.sold, c.withdrawn, c.total, c.ids
        FROM counted AS c CROSS JOIN engine_state AS e;
END
$$;
