-- name: read_clock :one
-- What time it is in Postgres.
SELECT clock_timestamp() AS at;

-- name: keep_tick :one
-- Remember a moment of both clocks.
INSERT INTO witness.ticks (before, at, after) VALUES (@before, @at, @after) RETURNING before;

-- name: tell_ticks :many
-- Moments of both clocks.
SELECT 'tick' AS type, t.before, (extract(epoch FROM t.at) * 1000000)::bigint AS at, t.after
  FROM witness.ticks AS t
 ORDER BY t.before;

-- name: tell_drops :many
-- Terms of drops, whenever they changed.
SELECT 'drop' AS type, f.seq, f.txid, (extract(epoch FROM f.at) * 1000000)::bigint AS at, f.epoch,
       f."drop", f.max_per_buyer, f.max_per_order, f.total_stock, f.hold_seconds, f.paused, f.ready,
       (extract(epoch FROM f.starts) * 1000000)::bigint AS starts,
       (extract(epoch FROM f.ends) * 1000000)::bigint AS ends
  FROM witness.drops AS f
 ORDER BY f.seq;

-- name: tell_stock :many
-- Every change of a stock row.
SELECT 'stock' AS type, f.seq, f.txid, (extract(epoch FROM f.at) * 1000000)::bigint AS at, f.epoch,
       f."drop", f.before, f.version, f.free, f.held, f.sold, f.withdrawn, f.total
  FROM witness.stock AS f
 ORDER BY f.seq;

-- name: tell_units :many
-- Every unit that came onto the shelf, left it, or went off sale there.
SELECT 'unit' AS type, f.seq, f.txid, (extract(epoch FROM f.at) * 1000000)::bigint AS at, f.epoch,
       f."drop", f.number, f.before, f.after
  FROM witness.units AS f
 ORDER BY f.seq;

-- name: tell_holds :many
-- Every change of a reservation.
SELECT 'hold' AS type, f.seq, f.txid, (extract(epoch FROM f.at) * 1000000)::bigint AS at, f.epoch,
       f."drop", f.id, f.id_before, f.request, f.attempt, f.buyer, f.before, f.after, f.quantity, f.units,
       f.amount_cents, (extract(epoch FROM f.expires) * 1000000)::bigint AS expires
  FROM witness.reservations AS f
 ORDER BY f.seq;

-- name: tell_purchases :many
-- Every change of a purchase.
SELECT 'purchase' AS type, f.seq, f.txid, (extract(epoch FROM f.at) * 1000000)::bigint AS at, f.epoch,
       f."drop", f.id, f.request, f.reservation, f.buyer, f.quantity, f.units, f.reference,
       (extract(epoch FROM f.bought) * 1000000)::bigint AS bought, f.before, f.after
  FROM witness.purchases AS f
 ORDER BY f.seq;

-- name: tell_payments :many
-- Every change of a payment.
SELECT 'payment' AS type, f.seq, f.txid, (extract(epoch FROM f.at) * 1000000)::bigint AS at, f.epoch,
       f.reference, f.reservation, f.amount_cents, f.currency, f.before, f.after, f.outcome, f.reason
  FROM witness.payments AS f
 ORDER BY f.seq;

-- name: tell_refunds :many
-- Every change of a refund.
SELECT 'refund' AS type, f.seq, f.txid, (extract(epoch FROM f.at) * 1000000)::bigint AS at, f.epoch,
       f.id, f.reference, f.reservation, f.amount_cents, f.reason, f.verified, f.before, f.after
  FROM witness.refunds AS f
 ORDER BY f.seq;

-- name: tell_outbox :many
-- What the engine told the world.
SELECT 'told' AS type, f.seq, f.txid, (extract(epoch FROM f.at) * 1000000)::bigint AS at, f.epoch,
       f."drop", f.id, f.told, f.version, f.kind, f.subjects
  FROM witness.outbox AS f
 ORDER BY f.seq;

-- name: tell_arrival :many
-- The transaction in which the witness came.
SELECT 'arrival' AS type, a.txid FROM witness.arrival AS a;

-- name: tell_final_stock :many
-- The stock rows as they are now.
SELECT 'final_stock' AS type, s.drop_id AS "drop", s.version, s.free, s.held, s.sold, s.withdrawn, s.total
  FROM stock AS s;

-- name: tell_final_units :many
-- The shelf as it is now.
SELECT 'final_unit' AS type, u.drop_id AS "drop", u.number, u.state FROM units AS u;

-- name: tell_final_holds :many
-- The reservations as they are now.
SELECT 'final_hold' AS type, r.drop_id AS "drop", r.id, r.state FROM reservations AS r;

-- name: tell_final_allowances :many
-- What buyers use of their limits now.
SELECT 'final_use' AS type, a.drop_id AS "drop", a.buyer, a.used FROM allowances AS a WHERE a.used > 0;
