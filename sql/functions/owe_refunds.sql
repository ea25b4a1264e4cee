-- owe_refunds: clients say that holds which are bought were paid once more. Believed as far as a
-- provider's word will bear it out: not verified, and at most ten a hold.
--
-- Not of a payment that turned out to be the purchase's own. The references that were news.
--
-- Locks  reservations by id, so that nobody decides about their payments meanwhile.
-- Index  reservations_pkey, refunds_one_per_payment, purchases_one_per_reservation
CREATE OR REPLACE FUNCTION owe_refunds(p_reservations uuid[], p_references text[])
    RETURNS TABLE (reference text)
    LANGUAGE plpgsql
AS $$
#variable_conflict use_column
BEGIN
    PERFORM FROM reservations AS r WHERE r.id = ANY (p_reservations) ORDER BY r.id FOR UPDATE;
    RETURN QUERY
      WITH owed AS (
          INSERT INTO refunds (reference, reservation_id, drop_id, buyer, amount_cents, currency, reason, verified)
          SELECT w.reference, r.id, r.drop_id, r.buyer, r.amount_cents, d.currency, 'already_paid', false
            FROM (SELECT DISTINCT * FROM unnest(p_reservations, p_references)) AS w (reservation_id, reference)
            JOIN reservations AS r ON r.id = w.reservation_id
            JOIN drops AS d ON d.id = r.drop_id
            JOIN purchases AS b ON b.reservation_id = r.id
           WHERE b.payment_reference IS DISTINCT FROM w.reference
             AND r.id = ANY (p_reservations) AND b.reservation_id = ANY (p_reservations)
             AND r.amount_cents > 0
             AND (SELECT count(*) FROM (SELECT FROM refunds AS f
                                         WHERE f.reservation_id = r.id AND NOT f.verified LIMIT 10) AS few) < 10
           ORDER BY w.reference
              ON CONFLICT (reference, reservation_id) DO NOTHING
       RETURNING reservation_id, drop_id, reference
      ), told AS (
          INSERT INTO outbox (drop_id, epoch, version, kind, subjects)
          SELECT o.drop_id, e.epoch, s.version, 'refund_due', ARRAY[o.reservation_id]
            FROM owed AS o
            JOIN stock AS s ON s.drop_id = o.drop_id
           CROSS JOIN engine_state AS e
      )
      SELECT owed.reference FROM owed;
END
$$;
