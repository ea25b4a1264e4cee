-- settle_payments: write down what the provider says of payments, and make of money that came what
-- can be made of it: a purchase, or a refund that is due. Never neither.
--
-- A later word of one payment (pending, failed, succeeded, refunded) counts, an earlier one changes
-- nothing, so all may come twice, late and out of order. A hold that is still there is sold, past its
-- deadline too: nobody else has its units. One that is gone gets free units of its drop, if its buyer
-- may have them and the drop is not paused; of a named drop its own units or none. What cannot be decided now, because others have the free
-- units in their hands, stays undecided: the caller comes back.
--
-- One row a drop whose stock changed; `buyers` and `quantities` are those who got units anew, `numbers`
-- which named units those are (null where units have no names).
--
-- Locks  payments by reference, reservations by id, allowances by (drop, buyer), units (SKIP LOCKED), picks,
--        stock rows by drop.
-- Index  payments_pkey, reservations_pkey, units_free_by_position, units_pkey
CREATE OR REPLACE FUNCTION settle_payments(
    p_references text[], p_statuses text[], p_reservations uuid[], p_amounts bigint[], p_currencies text[],
    p_ids uuid[], p_requests uuid[]
)
    RETURNS TABLE (
        drop_id bigint, epoch bigint, version bigint,
        free integer, held integer, sold integer, withdrawn integer, total integer,
        bought uuid[], buyers text[], quantities integer[], numbers integer[]
    )
    LANGUAGE plpgsql
    SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off
AS $$
#variable_conflict use_column
DECLARE
    v_now      timestamptz;
    v_late     record;
    v_mine     integer[];
    v_short    text[] := '{}';
    v_revived  uuid[] := '{}';
    v_sold     uuid[];
    v_ids      uuid[];
    v_requests uuid[];
    v_refs     text[];
    v_holds    uuid[];  -- said beside each join: a plan made while holds were few reads all of them
BEGIN
    INSERT INTO payments AS p (reference, reservation_id, status, amount_cents, currency)
    SELECT w.reference, w.reservation_id, w.status::payment_state, w.amount_cents, w.currency
      FROM unnest(p_references, p_reservations, p_statuses, p_amounts, p_currencies)
           AS w (reference, reservation_id, status, amount_cents, currency)
     ORDER BY w.reference
        ON CONFLICT (reference) DO UPDATE
       SET status = excluded.status, changed_at = clock_timestamp(),
           -- What came, and for what, is said by the word that says that it came.
           reservation_id = CASE WHEN p.status < 'succeeded' THEN excluded.reservation_id ELSE p.reservation_id END,
           amount_cents = CASE WHEN p.status < 'succeeded' THEN excluded.amount_cents ELSE p.amount_cents END,
           currency = CASE WHEN p.status < 'succeeded' THEN excluded.currency ELSE p.currency END
     WHERE p.status < excluded.status;

    -- The provider gave it back: no longer owed, by its name, or by none if it is the same sum.
    UPDATE refunds AS f
       SET done_at = clock_timestamp(), verified = true
      FROM payments AS p
     WHERE p.reference = ANY (p_references) AND p.status = 'refunded'
       AND f.reservation_id IS NOT DISTINCT FROM p.reservation_id
       AND (f.reference = p.reference
            OR f.reference IS NULL AND (f.amount_cents, f.currency) = (p.amount_cents, p.currency)
               AND p.outcome IS DISTINCT FROM 'refund_due')
       AND f.done_at IS NULL;

    v_holds := ARRAY(SELECT p.reservation_id FROM payments AS p
                      WHERE p.reference = ANY (p_references) AND p.status = 'succeeded' AND p.outcome IS NULL
                        AND p.reservation_id IS NOT NULL);
    PERFORM FROM reservations AS r WHERE r.id = ANY (v_holds) ORDER BY r.id FOR UPDATE;
    v_now := clock_timestamp();

    -- What needs no unit: money for nothing we know, for another price, for what is bought already.
    UPDATE payments AS p
       SET outcome = CASE WHEN v.reason = 'adopted' THEN 'purchased' ELSE 'refund_due' END,
           reason = nullif(v.reason, 'adopted'), changed_at = v_now
      FROM (SELECT q.reference,
                   CASE WHEN r.id IS NULL OR r.state = 'aborted' THEN 'unknown_reservation'
                        WHEN q.amount_cents <> r.amount_cents OR q.currency <> d.currency THEN 'wrong_amount'
                        WHEN r.state = 'refunded' THEN 'refunded'
                        WHEN b.payment_reference = q.reference THEN 'adopted'
                        -- Bought without naming a payment: the first that comes was it.
                        WHEN r.state = 'purchased' AND b.payment_reference IS NULL
                             AND q.reference = min(q.reference)
                                 FILTER (WHERE q.amount_cents = r.amount_cents AND q.currency = d.currency)
                                 OVER (PARTITION BY q.reservation_id) THEN 'adopted'
                        WHEN r.state = 'purchased' THEN 'already_paid'
                   END AS reason
              FROM payments AS q
              LEFT JOIN reservations AS r ON r.id = q.reservation_id AND r.id = ANY (v_holds)
              LEFT JOIN drops AS d ON d.id = r.drop_id
              LEFT JOIN purchases AS b ON b.reservation_id = r.id AND b.reservation_id = ANY (v_holds)
             WHERE q.reference = ANY (p_references) AND q.status = 'succeeded' AND q.outcome IS NULL) AS v
     WHERE p.reference = v.reference AND v.reason IS NOT NULL;
    UPDATE purchases AS b
       SET payment_reference = p.reference, adopted = true
      FROM payments AS p
     WHERE p.reference = ANY (p_references) AND p.outcome = 'purchased'
       AND b.reservation_id = p.reservation_id AND b.reservation_id = ANY (v_holds)
       AND b.payment_reference IS NULL;

    -- Two payments for one hold in one batch: one buys, the other is owed back.
    UPDATE payments AS p
       SET outcome = 'refund_due', reason = 'already_paid', changed_at = v_now
     WHERE p.reference = ANY (p_references) AND p.status = 'succeeded' AND p.outcome IS NULL
       AND EXISTS (SELECT FROM payments AS q
                    WHERE q.reference = ANY (p_references) AND q.reservation_id = p.reservation_id
                      AND q.status = 'succeeded' AND q.outcome IS NULL AND q.reference < p.reference);

    -- The late ones: free units for holds that are gone. All buyers' rows first and in one order,
    -- theirs and those whose cool-down a purchase will end, so that no two batches wait in a circle.
    INSERT INTO allowances AS a (drop_id, buyer, used)
    SELECT DISTINCT r.drop_id, r.buyer, 0
      FROM payments AS p
      JOIN reservations AS r ON r.id = p.reservation_id
     WHERE p.reference = ANY (p_references) AND p.status = 'succeeded' AND p.outcome IS NULL
       AND r.id = ANY (v_holds)
       AND (r.state IN ('expired', 'released')
            OR EXISTS (SELECT FROM drops WHERE drops.cooldown_factor > 0))
     ORDER BY r.drop_id, r.buyer
        ON CONFLICT (drop_id, buyer) DO UPDATE
       SET used = a.used;
    FOR v_late IN
        SELECT p.reference, r.id, r.drop_id, r.buyer, r.quantity, d.max_per_buyer, d.paused_reason,
               CASE WHEN d.pick = 'named' THEN r.units END AS picked
          FROM payments AS p
          JOIN reservations AS r ON r.id = p.reservation_id
          JOIN drops AS d ON d.id = r.drop_id
         WHERE p.reference = ANY (p_references) AND p.status = 'succeeded' AND p.outcome IS NULL
           AND r.id = ANY (v_holds) AND r.state IN ('expired', 'released')
         ORDER BY r.drop_id, r.buyer, p.reference
    LOOP
        UPDATE allowances AS a
           SET used = a.used + v_late.quantity
         WHERE a.drop_id = v_late.drop_id AND a.buyer = v_late.buyer AND v_late.paused_reason IS NULL
           AND (v_late.max_per_buyer IS NULL OR a.used + v_late.quantity <= v_late.max_per_buyer);
        IF NOT FOUND THEN
            UPDATE payments AS p
               SET outcome = 'refund_due', changed_at = v_now,
                   reason = CASE WHEN v_late.paused_reason IS NULL THEN 'limit' ELSE 'paused' END
             WHERE p.reference = v_late.reference;
            CONTINUE;
        END IF;
        IF v_late.picked IS NULL THEN
            SELECT array_agg(next.number ORDER BY next.position)
              INTO v_mine
              FROM (SELECT units.number, units.position
                      FROM units
                     WHERE units.drop_id = v_late.drop_id AND units.state = 'free'
                     ORDER BY units.position
                     LIMIT v_late.quantity
                       FOR UPDATE SKIP LOCKED) AS next;
        ELSE
            v_mine := ARRAY(SELECT units.number
                              FROM units
                             WHERE units.drop_id = v_late.drop_id AND units.number = ANY (v_late.picked)
                               AND units.state::text = 'free'
                             ORDER BY units.number
                               FOR UPDATE SKIP LOCKED);
        END IF;
        IF coalesce(cardinality(v_mine), 0) < v_late.quantity THEN
            v_short := v_short || v_late.reference;
            UPDATE allowances AS a
               SET used = a.used - v_late.quantity
             WHERE a.drop_id = v_late.drop_id AND a.buyer = v_late.buyer;
            CONTINUE;
        END IF;
        DELETE FROM units WHERE units.drop_id = v_late.drop_id AND units.number = ANY (v_mine);
        UPDATE reservations AS r
           SET state = 'paying', units = v_mine, ended_at = NULL
         WHERE r.id = v_late.id;
        IF v_late.picked IS NOT NULL THEN
            INSERT INTO picks (drop_id, number, reservation_id)
            SELECT v_late.drop_id, unnest(v_mine), v_late.id;
        END IF;
        v_revived := v_revived || v_late.id;
    END LOOP;
    DELETE FROM allowances AS a
     WHERE a.ctid = ANY (ARRAY(SELECT (SELECT k.ctid FROM allowances AS k
                                        WHERE k.drop_id = r.drop_id AND k.buyer = r.buyer)
                                 FROM reservations AS r
                                WHERE r.id = ANY (ARRAY(SELECT p.reservation_id FROM payments AS p
                                                         WHERE p.reference = ANY (p_references)))))
       AND a.used = 0 AND a.cools_until IS NULL;
    -- Who pays need not wait any more; before the stock rows, which claims lock after their buyers.
    PERFORM end_cool_downs(ARRAY(
        SELECT r.id
          FROM payments AS p
          JOIN reservations AS r ON r.id = p.reservation_id
         WHERE p.reference = ANY (p_references) AND p.status = 'succeeded' AND p.outcome IS NULL
           AND r.id = ANY (v_holds) AND r.state IN ('active', 'paying')));

    -- All stock rows, in order: from here on the figures are the truth.
    PERFORM FROM stock
      WHERE stock.drop_id IN (SELECT r.drop_id FROM reservations AS r
                               WHERE r.id = ANY (ARRAY(
                                         SELECT p.reservation_id FROM payments AS p
                                          WHERE p.reference = ANY (p_references) AND p.status = 'succeeded'
                                            AND p.outcome IS NULL AND p.reservation_id IS NOT NULL)))
      ORDER BY stock.drop_id FOR UPDATE;
    UPDATE stock
       SET free = stock.free - sums.units, held = stock.held + sums.units
      FROM (SELECT r.drop_id, sum(r.quantity)::integer AS units
              FROM reservations AS r
             WHERE r.id = ANY (v_revived)
             GROUP BY r.drop_id) AS sums
     WHERE stock.drop_id = sums.drop_id;
    -- Nothing was found free, and nothing is: not merely in somebody's hands.
    UPDATE payments AS p
       SET outcome = 'refund_due', reason = 'sold_out', changed_at = v_now
      FROM reservations AS r
      JOIN stock AS s ON s.drop_id = r.drop_id
      JOIN drops AS d ON d.id = r.drop_id
     WHERE p.reference = ANY (v_short) AND r.id = p.reservation_id AND r.id = ANY (v_holds)
       AND CASE WHEN d.pick = 'any' THEN s.free
                ELSE (SELECT count(*) FROM units
                       WHERE units.drop_id = r.drop_id AND units.number = ANY (r.units)
                         AND units.state::text = 'free') END < r.quantity;

    SELECT array_agg(w.reservation_id), array_agg(w.id), array_agg(w.request_id), array_agg(w.reference)
      INTO v_sold, v_ids, v_requests, v_refs
      FROM (SELECT p.reservation_id, u.id, u.request_id, p.reference
              FROM unnest(p_references, p_ids, p_requests) AS u (reference, id, request_id)
              JOIN payments AS p ON p.reference = u.reference
              JOIN reservations AS r ON r.id = p.reservation_id
             WHERE p.status = 'succeeded' AND p.outcome IS NULL
               AND r.id = ANY (v_holds) AND r.state IN ('active', 'paying')) AS w;
    IF v_sold IS NOT NULL THEN
        UPDATE payments AS p SET outcome = 'purchased', changed_at = v_now WHERE p.reference = ANY (v_refs);
        UPDATE reservations AS r SET state = 'purchased', ended_at = v_now WHERE r.id = ANY (v_sold);
        RETURN QUERY
          SELECT s.drop_id, s.epoch, s.version, s.free, s.held, s.sold, s.withdrawn, s.total, s.bought,
                 (SELECT array_agg(r.buyer ORDER BY r.id) FROM reservations AS r
                   WHERE r.id = ANY (v_revived) AND r.drop_id = s.drop_id),
                 (SELECT array_agg(r.quantity ORDER BY r.id) FROM reservations AS r
                   WHERE r.id = ANY (v_revived) AND r.drop_id = s.drop_id),
                 (SELECT coalesce(array_agg(u.number) FILTER (WHERE r.id = ANY (v_revived)), '{}')
                    FROM drops AS d
                    LEFT JOIN reservations AS r ON r.drop_id = d.id AND r.id = ANY (v_revived)
                    LEFT JOIN LATERAL unnest(r.units) AS u (number) ON true
                   WHERE d.id = s.drop_id AND d.pick = 'named'
                   GROUP BY d.id)
            FROM sell_holds(v_sold, v_ids, v_requests, v_refs, v_now) AS s;
    END IF;

    -- What a client's word had made us owe was this purchase's own payment after all.
    DELETE FROM refunds AS f
     USING payments AS p
     WHERE p.reference = ANY (p_references) AND p.outcome = 'purchased'
       AND f.reference = p.reference AND f.reservation_id = p.reservation_id AND NOT f.verified;
    -- A purchase that named no payment was refunded: what is owed for it is owed for this one.
    DELETE FROM refunds AS f
     USING payments AS p
     WHERE p.reference = ANY (p_references) AND p.status = 'succeeded' AND p.reason = 'refunded'
       AND f.reservation_id = p.reservation_id AND f.reference IS NULL AND f.done_at IS NULL;
    WITH owed AS (
        INSERT INTO refunds AS f (reference, reservation_id, drop_id, buyer, amount_cents, currency, reason, verified)
        SELECT p.reference, p.reservation_id, r.drop_id, r.buyer, p.amount_cents, p.currency, p.reason, true
          FROM payments AS p
          LEFT JOIN reservations AS r ON r.id = p.reservation_id
         WHERE p.reference = ANY (p_references) AND p.outcome = 'refund_due' AND p.status = 'succeeded'
           AND p.amount_cents > 0
            ON CONFLICT (reference, reservation_id) DO UPDATE
           -- What a client claimed, or an operator undid, was worth what the provider says.
           SET verified = true, amount_cents = excluded.amount_cents, currency = excluded.currency,
               reason = excluded.reason
         WHERE NOT f.verified AND f.done_at IS NULL
     RETURNING f.reservation_id, coalesce(f.drop_id, 0) AS drop_id
    )
    INSERT INTO outbox (drop_id, epoch, version, kind, subjects)
    SELECT o.drop_id, e.epoch, coalesce(s.version, 0), 'refund_due', ARRAY[o.reservation_id]
      FROM owed AS o
      LEFT JOIN stock AS s ON s.drop_id = o.drop_id
     CROSS JOIN engine_state AS e;
END
$$;
