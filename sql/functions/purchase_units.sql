-- purchase_units: turn live holds into purchases, each at most once.
--
-- A hold is bought only before its deadline by this server's clock, whether or not anybody swept,
-- and only by its buyer (a null buyer stands for its owner). What is not returned was not bought
-- by this call: the caller looks up why. Running it twice is running it once, so a lost reply is
-- answered by calling it again.
--
-- Locks  reservations by id, allowances by drop and buyer (end_cool_downs), units of those holds,
--        stock rows by drop.
-- Index  reservations_pkey, units_pkey
CREATE OR REPLACE FUNCTION purchase_units(
    p_requests uuid[], p_ids uuid[], p_reservations uuid[], p_buyers text[], p_references text[]
)
    RETURNS TABLE (
        drop_id bigint, epoch bigint, version bigint,
        free integer, held integer, sold integer, withdrawn integer, total integer,
        bought uuid[]
    )
    LANGUAGE plpgsql
    SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off
AS $$
DECLARE
    v_now     timestamptz;
    v_bought  uuid[];
BEGIN
    PERFORM FROM reservations WHERE reservations.id = ANY (p_reservations) ORDER BY reservations.id FOR UPDATE;
    -- After the locks: a deadline that passed while we waited has passed.
    v_now := clock_timestamp();

    WITH wishes AS (
        SELECT DISTINCT ON (w.reservation_id) w.*
          FROM unnest(p_requests, p_ids, p_reservations, p_buyers, p_references)
               AS w (request_id, id, reservation_id, buyer, reference)
          JOIN reservations AS r ON r.id = w.reservation_id
         WHERE r.buyer = coalesce(w.buyer, r.buyer)  -- a stranger's wish must not crowd out the owner's
           AND NOT EXISTS (SELECT FROM purchases WHERE purchases.request_id = w.request_id)
         ORDER BY w.reservation_id, w.id
    ), closed AS (
        UPDATE reservations AS r
           SET state = 'purchased', ended_at = v_now
          FROM wishes AS w
         WHERE r.id = w.reservation_id
           AND r.state IN ('active', 'paying')
           AND r.expires_at > v_now
     RETURNING w.id, w.request_id, w.reference, r.id AS reservation_id, r.drop_id, r.amount_cents,
               r.quantity, r.buyer, r.units
    ), bought AS (
        INSERT INTO purchases (id, request_id, reservation_id, drop_id, amount_cents, purchased_at,
                               quantity, buyer, units, payment_reference)
        SELECT c.id, c.request_id, c.reservation_id, c.drop_id, c.amount_cents, v_now,
               c.quantity, c.buyer, c.units, c.reference
          FROM closed AS c
     RETURNING purchases.reservation_id
    )
    SELECT array_agg(bought.reservation_id) INTO v_bought FROM bought;
    IF v_bought IS NULL THEN
        RETURN;
    END IF;
    PERFORM end_cool_downs(v_bought);

    UPDATE units
       SET state = 'sold'
      FROM (SELECT r.id, r.drop_id, unnest(r.units) AS number
              FROM reservations AS r
             WHERE r.id = ANY (v_bought)) AS u
     WHERE units.drop_id = u.drop_id
       AND units.number = u.number
       AND units.state = 'held'
       AND units.reservation_id = u.id;

    PERFORM FROM stock
      WHERE stock.drop_id IN (SELECT r.drop_id FROM reservations AS r WHERE r.id = ANY (v_bought))
      ORDER BY stock.drop_id FOR UPDATE;

    RETURN QUERY
      WITH sums AS (
          SELECT r.drop_id, sum(r.quantity)::integer AS units, array_agg(r.id) AS ids
            FROM reservations AS r
           WHERE r.id = ANY (v_bought)
           GROUP BY r.drop_id
      ), counted AS (
          UPDATE stock
             SET version = stock.version + 1,
                 held = stock.held - sums.units,
                 sold = stock.sold + sums.units,
                 changed_at = v_now
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
