-- sell_holds: the shared end of purchase_units and settle_payments. The caller has locked the
-- reservations, found them live and made them 'purchased'; the arrays run in parallel. Runs under
-- the planner's settings of its callers.
--
-- One row a drop: its figures, and what was bought of it. `ids` to `buyers` run in parallel with
-- `bought`; `numbers` are their units, one purchase after the other, `names` what those are called.
--
-- The ledger's record is one row a drop, called p_action; null: the caller writes its own.
--
-- Locks  stock rows by drop. Of units nothing: they left the shelf when they were held.
-- Index  reservations_pkey, unit_names_pkey
CREATE OR REPLACE FUNCTION sell_holds(
    p_reservations uuid[], p_ids uuid[], p_requests uuid[], p_references text[], p_now timestamptz,
    p_action text DEFAULT 'PURCHASED'
)
    RETURNS TABLE (
        drop_id bigint, epoch bigint, version bigint,
        free integer, held integer, sold integer, withdrawn integer, total integer,
        bought uuid[], ids uuid[], amounts bigint[], quantities integer[], buyers text[], numbers integer[],
        currency text, purchased_at timestamptz, names text[]
    )
    LANGUAGE plpgsql
AS $$
DECLARE
    v_units integer;
BEGIN
    purchased_at := p_now;
    FOR drop_id, v_units, bought, ids, amounts, quantities, buyers, numbers IN
        WITH sold AS (
            SELECT w.id, w.request_id, w.reference, r.id AS reservation_id, r.drop_id, r.amount_cents,
                   r.quantity, r.buyer, r.units
              FROM unnest(p_reservations, p_ids, p_requests, p_references)
                   AS w (reservation_id, id, request_id, reference)
                   -- OFFSET: one look-up each, however few holds the planner believes there are.
             CROSS JOIN LATERAL (SELECT * FROM reservations AS k WHERE k.id = w.reservation_id OFFSET 0) AS r
        ), made AS (
            INSERT INTO purchases (id, request_id, reservation_id, drop_id, amount_cents, purchased_at,
                                   quantity, buyer, units, payment_reference)
            SELECT s.id, s.request_id, s.reservation_id, s.drop_id, s.amount_cents, p_now,
                   s.quantity, s.buyer, s.units, s.reference
              FROM sold AS s
        )
        SELECT s.drop_id, sum(s.quantity), array_agg(s.reservation_id ORDER BY s.id),
               array_agg(s.id ORDER BY s.id), array_agg(s.amount_cents ORDER BY s.id),
               array_agg(s.quantity ORDER BY s.id), array_agg(s.buyer ORDER BY s.id),
               (SELECT array_agg(u.number ORDER BY t.id, u.i)
                  FROM sold AS t
                 CROSS JOIN unnest(t.units) WITH ORDINALITY AS u (number, i)
                 WHERE t.drop_id = s.drop_id)
          FROM sold AS s
         GROUP BY s.drop_id
         ORDER BY s.drop_id
    LOOP
        UPDATE stock
           SET version = stock.version + 1,
               held = stock.held - v_units,
               sold = stock.sold + v_units,
               changed_at = p_now
         WHERE stock.drop_id = sell_holds.drop_id
     RETURNING stock.version, stock.free, stock.held, stock.sold, stock.withdrawn, stock.total,
               (SELECT d.currency FROM drops AS d WHERE d.id = stock.drop_id)
          INTO version, free, held, sold, withdrawn, total, currency;
        SELECT names_of(d, sell_holds.numbers) INTO names FROM drops AS d WHERE d.id = sell_holds.drop_id;
        -- A statement of its own: the epoch must not be older than that of whoever had the row before.
        WITH recorded AS (
            INSERT INTO records (action, drop_id, subjects)
            SELECT p_action, sell_holds.drop_id, sell_holds.ids WHERE p_action IS NOT NULL
        )
        INSERT INTO outbox AS o (drop_id, epoch, version, kind, subjects)
        SELECT sell_holds.drop_id, e.epoch, sell_holds.version, 'purchased', sell_holds.bought
          FROM engine_state AS e
     RETURNING o.epoch INTO epoch;
        RETURN NEXT;
    END LOOP;
END
$$;
