-- refund_purchase: undo a purchase. Its units go back on sale at the queue's end (named ones to their
-- place), or off sale; its buyer may buy again; and the money is owed back. Once: no row if it was
-- refunded before. `numbers`: the named units that are on sale again; null for others.
--
-- A membership that it was is revoked: its number may be another's from now on. It is recorded: as the release of its
-- booking if there is one that is open, else as a refund.
--
-- Locks  the reservation, its buyer's allowance, its membership, its booking, picks, the stock row. The units are new rows.
-- Index  purchases_pkey, memberships_pkey, units_pkey, allowances_pkey, bookings_purchase_id_key,
--        a_named_unit_has_one_live_owner
CREATE OR REPLACE FUNCTION refund_purchase(p_purchase uuid, p_restock boolean, p_reason text)
    RETURNS TABLE (
        drop_id bigint, epoch bigint, version bigint,
        free integer, held integer, sold integer, withdrawn integer, total integer,
        returned uuid[], buyers text[], quantities integer[], numbers integer[]
    )
    LANGUAGE plpgsql
    SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off
AS $$
#variable_conflict use_column
DECLARE
    v_bought  purchases%ROWTYPE;
    v_epoch   bigint;
    v_version bigint;
    v_named   boolean;
BEGIN
    PERFORM FROM reservations AS r
       JOIN purchases AS b ON b.reservation_id = r.id
      WHERE b.id = p_purchase
        FOR UPDATE OF r;
    UPDATE purchases AS b
       SET refunded_at = clock_timestamp(), refund_reason = p_reason, restocked = p_restock
     WHERE b.id = p_purchase AND b.refunded_at IS NULL
 RETURNING b.* INTO v_bought;
    IF NOT FOUND THEN
        RETURN;
    END IF;
    UPDATE reservations AS r SET state = 'refunded' WHERE r.id = v_bought.reservation_id;
    UPDATE allowances AS a
       SET used = a.used - v_bought.quantity
     WHERE a.drop_id = v_bought.drop_id AND a.buyer = v_bought.buyer;
    v_named := (SELECT d.pick = 'named' FROM drops AS d WHERE d.id = v_bought.drop_id);
    INSERT INTO units (drop_id, number, position, state)
    SELECT v_bought.drop_id, u.number, CASE WHEN v_named THEN u.number ELSE nextval('unit_positions') END,
           CASE WHEN p_restock THEN 'free' ELSE 'withdrawn' END::unit_state
      FROM (SELECT DISTINCT unnest(v_bought.units)) AS u (number)
     WHERE (SELECT units.number FROM units
             WHERE units.drop_id = v_bought.drop_id AND units.number = u.number) IS NULL;
    IF v_named THEN
        DELETE FROM picks AS p
         WHERE p.drop_id = v_bought.drop_id AND p.number = ANY (v_bought.units)
           AND p.reservation_id = v_bought.reservation_id;
    END IF;
    UPDATE memberships AS m
       SET revoked_at = v_bought.refunded_at, revoke_reason = 'refunded', changed_at = v_bought.refunded_at
     WHERE m.id = v_bought.id AND m.revoked_at IS NULL;

    WITH released AS (
        UPDATE bookings AS k
           SET released_at = v_bought.refunded_at
         WHERE k.purchase_id = v_bought.id AND k.released_at IS NULL
     RETURNING k.id, (k.drop_id << 20) + k.number AS slot, k.manifest_id, k.buyer
    )
    INSERT INTO records (action, drop_id, subjects, slots, manifests, buyers, made_at)
    SELECT 'BOOKING_RELEASED', v_bought.drop_id, ARRAY[b.id], ARRAY[b.slot], ARRAY[b.manifest_id], ARRAY[b.buyer],
           v_bought.refunded_at
      FROM released AS b;
    IF NOT FOUND THEN
        INSERT INTO records (action, drop_id, subjects) VALUES ('REFUNDED', v_bought.drop_id, ARRAY[v_bought.id]);
    END IF;

    RETURN QUERY
      WITH counted AS (
          UPDATE stock
             SET version = stock.version + 1,
                 free = stock.free + CASE WHEN p_restock THEN v_bought.quantity ELSE 0 END,
                 withdrawn = stock.withdrawn + CASE WHEN p_restock THEN 0 ELSE v_bought.quantity END,
                 sold = stock.sold - v_bought.quantity,
                 changed_at = clock_timestamp()
           WHERE stock.drop_id = v_bought.drop_id
       RETURNING stock.*
      ), owed AS (
          INSERT INTO refunds (reference, reservation_id, drop_id, buyer, amount_cents, currency, reason, verified)
          SELECT v_bought.payment_reference, v_bought.reservation_id, v_bought.drop_id, v_bought.buyer,
                 v_bought.amount_cents, d.currency, 'refunded', p.status IS NOT NULL
            FROM drops AS d
            LEFT JOIN payments AS p ON p.reference = v_bought.payment_reference
                                   AND p.reservation_id = v_bought.reservation_id
                                   AND p.status >= 'succeeded'
           WHERE d.id = v_bought.drop_id
             AND v_bought.amount_cents > 0
             AND p.status IS DISTINCT FROM 'refunded'  -- else the provider gave it back already
              ON CONFLICT (reference, reservation_id) DO NOTHING
       RETURNING refunds.id
      ), told AS (
          INSERT INTO outbox (drop_id, epoch, version, kind, subjects)
          SELECT c.drop_id, e.epoch, c.version, kinds.kind, ARRAY[v_bought.reservation_id]
            FROM counted AS c
           CROSS JOIN engine_state AS e
           CROSS JOIN (SELECT 'refunded' AS kind UNION ALL SELECT 'refund_due' FROM owed) AS kinds
      )
      SELECT c.drop_id, e.epoch, c.version, c.free, c.held, c.sold, c.withdrawn, c.total,
             ARRAY[v_bought.reservation_id], ARRAY[v_bought.buyer], ARRAY[v_bought.quantity],
             CASE WHEN v_named AND p_restock THEN v_bought.units WHEN v_named THEN '{}' END
        FROM counted AS c CROSS JOIN engine_state AS e;
END
$$;
