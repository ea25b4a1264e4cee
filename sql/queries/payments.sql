-- name: extend_hold :maybe
-- Let a hold live longer, once; see functions/extend_hold.sql.
SELECT * FROM extend_hold(@reservation::uuid, @buyer::text);

-- name: pay_hold :maybe
-- Payment begins; see functions/pay_hold.sql.
SELECT * FROM pay_hold(@reservation::uuid, @buyer::text);

-- name: refund_purchase :many
-- Undo a purchase, once; see functions/refund_purchase.sql.
SELECT * FROM refund_purchase(@purchase::uuid, @restock::boolean, @reason::text);

-- name: settle_payments :many
-- Make of payments what can be made of them; see functions/settle_payments.sql.
SELECT *
  FROM settle_payments(@references::text[], @statuses::text[], @reservations::uuid[], @amounts::bigint[],
                       @currencies::text[], @ids::uuid[], @requests::uuid[]);

-- name: find_payments :many
-- Payments as they stand, with the purchase that was made of one.
SELECT p.*, b.id AS purchase_id, b.refunded_at IS NOT NULL AS undone
  FROM payments AS p
  LEFT JOIN purchases AS b ON b.reservation_id = p.reservation_id AND b.payment_reference = p.reference
 WHERE p.reference = ANY (@references::text[]);

-- name: find_payments_of_hold :many
-- What the provider said of the payments for a hold, in the order we heard of them: the first few.
-- Index  payments_by_reservation
SELECT p.*, b.id AS purchase_id, b.refunded_at IS NOT NULL AS undone
  FROM payments AS p
  LEFT JOIN purchases AS b ON b.reservation_id = p.reservation_id AND b.payment_reference = p.reference
 WHERE p.reservation_id = @reservation
 ORDER BY p.received_at, p.reference
 LIMIT 20;

-- name: undecided_payments :many
-- Money that came at least so many seconds ago, of which nothing was made yet.
-- Index  payments_undecided
SELECT p.*, NULL::uuid AS purchase_id, false AS undone
  FROM payments AS p
 WHERE p.status = 'succeeded'
   AND p.outcome IS NULL
   AND p.changed_at < clock_timestamp() - make_interval(secs => @seconds::float8)
 ORDER BY p.changed_at
 LIMIT @count::bigint;

-- name: owe_refunds :many
-- Note what clients say they paid once more; see functions/owe_refunds.sql.
SELECT * FROM owe_refunds(@reservations::uuid[], @references::text[]);

-- name: list_refunds :many
-- Money that is owed (done false), was given back (true), or (null) either, newest first, before a
-- cursor.
SELECT f.*
  FROM refunds AS f
 WHERE (@done::boolean IS NULL OR (f.done_at IS NOT NULL) = @done::boolean)
   AND (@before::bigint IS NULL OR f.id < @before)
 ORDER BY f.id DESC
 LIMIT @count::bigint
OFFSET @skip::bigint;

-- name: count_refunds :one
-- How many such rows there are.
SELECT count(*) AS items
  FROM refunds AS f
 WHERE @done::boolean IS NULL
    OR (f.done_at IS NOT NULL) = @done::boolean;

-- name: find_unmet :many
-- Payments for holds of a drop of which nothing was made after all: neither the purchase nor the refund
-- they are said to have come to is there. None, always. The first few, each with how many there are.
SELECT format('payment %s of hold %s came to %s, which is not there', p.reference, p.reservation_id, p.outcome) AS words,
       count(*) OVER () AS total
  FROM reservations AS r
  JOIN payments AS p ON p.reservation_id = r.id
 WHERE r.drop_id = @drop_id
   AND p.outcome IS NOT NULL
   AND p.amount_cents > 0
   AND NOT EXISTS (SELECT FROM purchases AS b
                    WHERE p.outcome = 'purchased' AND b.reservation_id = r.id
                      AND b.payment_reference = p.reference)
   AND NOT EXISTS (SELECT FROM refunds AS f
                    WHERE p.outcome = 'refund_due' AND f.reservation_id = r.id AND f.reference = p.reference)
 ORDER BY p.reference
 LIMIT @count::bigint;
