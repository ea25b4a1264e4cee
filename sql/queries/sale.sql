-- name: claim_units :one
-- Claim units for a batch of requests; see functions/claim_units.sql.
SELECT *
  FROM claim_units(@drop_id::bigint, @epoch::bigint, @requests::uuid[], @attempts::bigint[], @ids::uuid[],
                   @buyers::text[], @quantities::integer[], NULL,
                   @buyers_once::text[], @units_once::integer[]);

-- name: claim_seats :one
-- Claim named units for a batch of requests; see functions/claim_seats.sql.
SELECT *
  FROM claim_seats(@drop_id::bigint, @epoch::bigint, @requests::uuid[], @attempts::bigint[], @ids::uuid[],
                   @buyers::text[], @quantities::integer[], @picks::integer[],
                   @buyers_once::text[], @units_once::integer[]);

-- name: abort_requests :one
-- Make unknown claims definite; see functions/abort_requests.sql.
SELECT *
  FROM abort_requests(@drop_id::bigint, @requests::uuid[], @attempts::bigint[], @buyers::text[],
                      @quantities::integer[]);

-- name: find_holds_by_request :many
-- The holds these requests already have, told as the first time but for their status. Tombstones
-- are not holds.
SELECT r.*, d.currency, names_of(d, r.units) AS names, r.created_at AS server_time,
       hold_status(r.state, r.expires_at) AS status
  FROM reservations AS r
  JOIN drops AS d ON d.id = r.drop_id
 WHERE r.request_id = ANY (@requests::uuid[])
   AND r.state <> 'aborted';

-- name: look_up_requests :many
-- The same before a refusal, with whether claims that left no intent may be under way: one row at
-- least, empty but for that.
SELECT e.direct_until > clock_timestamp() AS direct, held.*
  FROM engine_state AS e
  LEFT JOIN (SELECT r.*, d.currency, names_of(d, r.units) AS names, r.created_at AS server_time,
                    hold_status(r.state, r.expires_at) AS status
               FROM reservations AS r
               JOIN drops AS d ON d.id = r.drop_id
              WHERE r.request_id = ANY (@requests::uuid[])
                AND r.state <> 'aborted') AS held ON true;

-- name: find_allowances :many
-- What these buyers use of a drop's limit, a live hold of theirs to point at, and (null: not at all)
-- how long they must wait after the holds they let go.
SELECT a.buyer, a.used, d.max_per_buyer, a.abandoned, a.cools_until,
       CASE WHEN d.cooldown_factor > 0 AND a.cools_until > clock_timestamp()
            THEN ceil(extract(epoch FROM a.cools_until - clock_timestamp()) * 1000)::bigint END AS cools_ms,
       (SELECT r.id
          FROM reservations AS r
         WHERE hashtextextended(r.buyer, 0) = hashtextextended(a.buyer, 0)
           AND r.buyer = a.buyer
           AND r.drop_id = @drop_id
           AND r.state IN ('active', 'paying')
           AND r.expires_at > clock_timestamp()
         ORDER BY r.id DESC
         LIMIT 1) AS reservation_id,
       EXISTS (SELECT
                 FROM reservations AS r
                WHERE hashtextextended(r.buyer, 0) = hashtextextended(a.buyer, 0)
                  AND r.buyer = a.buyer
                  AND r.drop_id = @drop_id
                  AND r.state IN ('active', 'paying')
                  AND r.expires_at <= clock_timestamp()) AS overdue
  FROM allowances AS a
  JOIN drops AS d ON d.id = a.drop_id
 WHERE a.drop_id = @drop_id
   AND a.buyer = ANY (@buyers::text[]);

-- name: find_reservation :maybe
-- One hold of any status, as it stands now.
SELECT r.*, d.currency, names_of(d, r.units) AS names, clock_timestamp() AS server_time,
       hold_status(r.state, r.expires_at) AS status
  FROM reservations AS r
  JOIN drops AS d ON d.id = r.drop_id
 WHERE r.id = @id
   AND r.state <> 'aborted';

-- name: find_reservations :many
-- Several holds of any status, as they stand now.
SELECT r.*, d.currency, names_of(d, r.units) AS names, clock_timestamp() AS server_time,
       hold_status(r.state, r.expires_at) AS status
  FROM reservations AS r
  JOIN drops AS d ON d.id = r.drop_id
 WHERE r.id = ANY (@ids::uuid[])
   AND r.state <> 'aborted';

-- name: find_holds_of :many
-- Those of several holds that are of certain buyers, as they stand now.
-- Index  reservations_pkey
SELECT r.*, d.currency, names_of(d, r.units) AS names, clock_timestamp() AS server_time,
       hold_status(r.state, r.expires_at) AS status
  FROM unnest(@ids::uuid[]) AS n (id)
       -- OFFSET: one look-up each, however few holds the planner believes there are.
 CROSS JOIN LATERAL (SELECT * FROM reservations AS k WHERE k.id = n.id OFFSET 0) AS r
  JOIN drops AS d ON d.id = r.drop_id
 WHERE r.buyer = ANY (@buyers::text[])
   AND r.state <> 'aborted';

-- name: list_reservations :many
-- A buyer's live holds, newest first, before a cursor.
-- Index  reservations_by_hashed_buyer
SELECT r.*, d.currency, names_of(d, r.units) AS names, clock_timestamp() AS server_time, r.state::text AS status
  FROM reservations AS r
  JOIN drops AS d ON d.id = r.drop_id
 WHERE hashtextextended(r.buyer, 0) = hashtextextended(@buyer, 0)
   AND r.buyer = @buyer
   AND r.state IN ('active', 'paying')
   AND r.expires_at > clock_timestamp()
   AND (@before::uuid IS NULL OR r.id < @before)
 ORDER BY r.id DESC
 LIMIT @count::bigint
OFFSET @skip::bigint;

-- name: count_reservations :one
-- How many live holds a buyer has.
-- Index  reservations_by_hashed_buyer
SELECT count(*) AS items
  FROM reservations AS r
 WHERE hashtextextended(r.buyer, 0) = hashtextextended(@buyer, 0)
   AND r.buyer = @buyer
   AND r.state IN ('active', 'paying')
   AND r.expires_at > clock_timestamp();

-- name: list_holds_of_drop :many
-- Every hold there was of a drop, newest first, before a cursor, of any of these statuses.
-- Index  reservations_by_drop
SELECT r.*, d.currency, names_of(d, r.units) AS names, d.name AS drop_name, hold_status(r.state, r.expires_at) AS status,
       clock_timestamp() AS server_time, p.id AS purchase_id, p.purchased_at, p.refunded_at, p.payment_reference
  FROM reservations AS r
  JOIN drops AS d ON d.id = r.drop_id
  LEFT JOIN purchases AS p ON p.reservation_id = r.id
 WHERE r.drop_id = @drop_id
   AND r.state <> 'aborted'
   AND (@before::uuid IS NULL OR r.id < @before)
   AND (@statuses::text[] IS NULL OR hold_status(r.state, r.expires_at) = ANY (@statuses::text[]))
 ORDER BY r.id DESC
 LIMIT @count::bigint
OFFSET @skip::bigint;

-- name: list_holds_of_buyer :many
-- Every hold a buyer had, of one drop or (null) of all, newest first, before a cursor.
-- Index  reservations_by_hashed_buyer
SELECT r.*, d.currency, names_of(d, r.units) AS names, d.name AS drop_name, hold_status(r.state, r.expires_at) AS status,
       clock_timestamp() AS server_time, p.id AS purchase_id, p.purchased_at, p.refunded_at, p.payment_reference
  FROM reservations AS r
  JOIN drops AS d ON d.id = r.drop_id
  LEFT JOIN purchases AS p ON p.reservation_id = r.id
 WHERE hashtextextended(r.buyer, 0) = hashtextextended(@buyer, 0)
   AND r.buyer = @buyer
   AND (@drop_id::bigint IS NULL OR r.drop_id = @drop_id)
   AND r.state <> 'aborted'
   AND (@before::uuid IS NULL OR r.id < @before)
   AND (@statuses::text[] IS NULL OR hold_status(r.state, r.expires_at) = ANY (@statuses::text[]))
 ORDER BY r.id DESC
 LIMIT @count::bigint
OFFSET @skip::bigint;

-- name: count_holds_of_drop :one
-- How many holds there were of a drop, of one buyer or (null) of all.
-- Index  reservations_by_drop
SELECT count(*) AS items
  FROM reservations AS r
 WHERE r.drop_id = @drop_id
   AND r.state <> 'aborted'
   AND (@buyer::text IS NULL OR r.buyer = @buyer)
   AND (@statuses::text[] IS NULL OR hold_status(r.state, r.expires_at) = ANY (@statuses::text[]));

-- name: count_holds_of_buyer :one
-- How many holds a buyer had.
-- Index  reservations_by_hashed_buyer
SELECT count(*) AS items
  FROM reservations AS r
 WHERE hashtextextended(r.buyer, 0) = hashtextextended(@buyer, 0)
   AND r.buyer = @buyer
   AND r.state <> 'aborted';

-- name: purchase_units :many
-- Buy a batch of holds; see functions/purchase_units.sql.
SELECT drop_id, epoch, version, free, held, sold, withdrawn, total,
       ids, amounts, quantities, buyers, numbers, names, currency, purchased_at
  FROM purchase_units(@requests::uuid[], @ids::uuid[], @reservations::uuid[], @buyers::text[],
                      @references::text[]);

-- name: find_purchases_by_request :many
-- The purchases these requests already made.
SELECT p.*, d.currency, names_of(d, p.units) AS names FROM purchases AS p JOIN drops AS d ON d.id = p.drop_id
 WHERE p.request_id = ANY (@requests::uuid[]);

-- name: find_purchases_by_reservation :many
-- The purchases these holds became.
SELECT p.*, d.currency, names_of(d, p.units) AS names FROM purchases AS p JOIN drops AS d ON d.id = p.drop_id
 WHERE p.reservation_id = ANY (@reservations::uuid[]);

-- name: find_purchase :maybe
-- One purchase.
SELECT p.*, d.currency, names_of(d, p.units) AS names FROM purchases AS p JOIN drops AS d ON d.id = p.drop_id
 WHERE p.id = @id;

-- name: list_purchases :many
-- What a buyer bought, newest first, before a cursor.
-- Index  purchases_by_buyer
SELECT p.*, d.currency, names_of(d, p.units) AS names
  FROM purchases AS p
  JOIN drops AS d ON d.id = p.drop_id
 WHERE p.buyer = @buyer
   AND (@before::uuid IS NULL OR p.id < @before)
 ORDER BY p.id DESC
 LIMIT @count::bigint
OFFSET @skip::bigint;

-- name: count_purchases :one
-- How many purchases a buyer made.
-- Index  purchases_by_buyer
SELECT count(*) AS items FROM purchases AS p WHERE p.buyer = @buyer;

-- name: list_purchases_of_drop :many
-- What was bought of a drop, by one buyer or (null) by all, newest first, before a cursor, refunded or
-- not or (null) either.
-- Index  purchases_by_drop
SELECT p.*, d.currency, names_of(d, p.units) AS names
  FROM purchases AS p
  JOIN drops AS d ON d.id = p.drop_id
 WHERE p.drop_id = @drop_id
   AND (@buyer::text IS NULL OR p.buyer = @buyer)
   AND (@refunded::boolean IS NULL OR (p.refunded_at IS NOT NULL) = @refunded::boolean)
   AND (@before::uuid IS NULL
        OR (p.purchased_at, p.id) < (SELECT c.purchased_at, c.id FROM purchases AS c WHERE c.id = @before))
 ORDER BY p.purchased_at DESC, p.id DESC
 LIMIT @count::bigint
OFFSET @skip::bigint;

-- name: count_purchases_of_drop :one
-- How many purchases there were of a drop, by one buyer or (null) by all, refunded or not.
-- Index  purchases_by_drop
SELECT count(*) AS items
  FROM purchases AS p
 WHERE p.drop_id = @drop_id
   AND (@buyer::text IS NULL OR p.buyer = @buyer)
   AND (@refunded::boolean IS NULL OR (p.refunded_at IS NOT NULL) = @refunded::boolean);

-- name: release_holds :many
-- Give holds back; see functions/release_holds.sql.
SELECT * FROM release_holds(@reservations::uuid[], @buyers::text[]);

-- name: expire_holds :many
-- Free what ran out; see functions/expire_holds.sql.
SELECT * FROM expire_holds(@drop_id::bigint, @count::integer);

-- name: count_due :one
-- Holds of a drop that ran out and were not swept yet, and for how long the oldest of them. Few are
-- due, so they are found first, and by the index: it takes the outcome of a SELECT, not a clock.
-- Index  reservations_by_deadline
WITH due AS MATERIALIZED (
    SELECT r.drop_id, r.expires_at
      FROM reservations AS r
     WHERE r.state IN ('active', 'paying')
       AND r.expires_at <= (SELECT clock_timestamp())
)
SELECT count(*) AS due,
       coalesce(extract(epoch FROM clock_timestamp() - min(due.expires_at)), 0)::float8 AS overdue_seconds
  FROM due
 WHERE due.drop_id = @drop_id;

-- name: due_drops :many
-- Drops with holds that ran out.
-- Index  reservations_by_deadline
SELECT DISTINCT r.drop_id
  FROM reservations AS r
 WHERE r.state IN ('active', 'paying')
   AND r.expires_at <= (SELECT clock_timestamp());

-- name: next_deadline :one
-- Milliseconds until the next hold runs out (negative: it has), or null when there is none.
-- Index  reservations_by_deadline
SELECT (extract(epoch FROM min(r.expires_at) - clock_timestamp()) * 1000)::float8 AS due_in_ms
  FROM reservations AS r
 WHERE r.state IN ('active', 'paying');

-- name: insert_drop :one
-- A new drop and its empty stock row.
WITH born AS (
    INSERT INTO drops (name, price_cents, currency, image_url, starts_at, ends_at, hold_seconds,
                       max_hold_seconds, pay_seconds, max_per_buyer, max_per_order, total_stock, most_per_buyer,
                       cooldown_factor, pick, listed)
    VALUES (@name, @price_cents, @currency, @image_url, coalesce(@starts_at, clock_timestamp()), @ends_at,
            @hold_seconds, @max_hold_seconds, @pay_seconds, @max_per_buyer, @max_per_order, @total_stock, @max_per_buyer,
            @cooldown_factor, @pick, @listed)
    RETURNING id
)
INSERT INTO stock (drop_id)
SELECT born.id FROM born
RETURNING drop_id;

-- name: name_units :many
-- Call the next units of a drop so, from this number on; the names that are new here.
INSERT INTO unit_names (drop_id, number, name)
SELECT @drop_id::bigint, @first::integer + n.i::integer - 1, n.name
  FROM unnest(@names::text[]) WITH ORDINALITY AS n (name, i)
    ON CONFLICT ON CONSTRAINT a_name_names_one_unit DO NOTHING
RETURNING name;

-- name: named_otherwise :one
-- Whether a unit of a drop has a name that is not its number.
SELECT EXISTS (SELECT FROM unit_names AS u WHERE u.drop_id = @drop_id AND u.name <> u.number::text) AS named;

-- name: fill_drop :one
-- The next slice of a drop's units; see functions/fill_drop.sql.
SELECT fill_drop(@drop_id::bigint, @slice::integer) AS missing;

-- name: unfilled_drops :many
-- Drops whose units are not all on the shelf yet, or were put there and nobody opened them (by an
-- older version in the middle of an update), oldest first.
SELECT d.id FROM drops AS d JOIN stock AS s ON s.drop_id = d.id
 WHERE s.total < d.total_stock OR d.prepared_at IS NULL
 ORDER BY d.id;

-- name: list_drops :many
-- Drops with their stock, newest first, before a cursor, of any of these statuses.
SELECT shown.*
  FROM (SELECT d.*, s.version, s.free, s.held, s.sold, s.withdrawn, s.total,
               drop_status(d, s) AS status, clock_timestamp() AS server_time
          FROM drops AS d
          JOIN stock AS s ON s.drop_id = d.id
         WHERE (@ids::bigint[] IS NULL OR d.id = ANY (@ids::bigint[]))
           AND (@before::bigint IS NULL OR d.id < @before)) AS shown
 WHERE @statuses::text[] IS NULL OR shown.status = ANY (@statuses::text[])
 ORDER BY shown.id DESC
 LIMIT @count::bigint
OFFSET @skip::bigint;

-- name: count_drops :one
-- How many drops there are of any of these statuses.
SELECT count(*) AS items
  FROM drops AS d
  JOIN stock AS s ON s.drop_id = d.id
 WHERE @statuses::text[] IS NULL
    OR drop_status(d, s) = ANY (@statuses::text[]);

-- name: recent_purchases :many
-- The three newest purchases of each of these drops, in one query whatever their number.
-- Index  purchases_by_drop
SELECT p.drop_id, p.buyer, p.purchased_at
  FROM unnest(@drop_ids::bigint[]) AS d (id)
 CROSS JOIN LATERAL (
       SELECT purchases.drop_id, purchases.buyer, purchases.purchased_at
         FROM purchases
        WHERE purchases.drop_id = d.id
          AND purchases.refunded_at IS NULL
        ORDER BY purchases.purchased_at DESC
        LIMIT 3) AS p;

-- name: take_fillers_turn :maybe
-- Wait for whoever fills this drop, and keep others out until the end of the transaction.
SELECT d.id, pg_advisory_xact_lock(hashtextextended('fill_drop', d.id)) FROM drops AS d WHERE d.id = @drop_id;

-- name: withdraw_units :one
-- Take free units off sale; see functions/withdraw_units.sql.
SELECT * FROM withdraw_units(@drop_id::bigint, @count::integer);

-- name: lock_drop :maybe
-- A drop's terms, kept from others' changes until the end of the transaction.
SELECT d.*, clock_timestamp() AS server_time FROM drops AS d WHERE d.id = @drop_id FOR NO KEY UPDATE;

-- name: change_drop :one
-- New terms for a drop that lock_drop has locked. Holds keep what they were promised.
UPDATE drops
   SET name = @name, price_cents = @price_cents, image_url = @image_url, starts_at = @starts_at, ends_at = @ends_at,
       hold_seconds = @hold_seconds, max_hold_seconds = @max_hold_seconds, pay_seconds = @pay_seconds,
       max_per_buyer = @max_per_buyer::integer, max_per_order = @max_per_order, total_stock = @total_stock,
       cooldown_factor = @cooldown_factor, terms_version = terms_version + 1,
       most_per_buyer = CASE WHEN @max_per_buyer::integer IS NOT NULL AND most_per_buyer IS NOT NULL
                             THEN greatest(most_per_buyer, @max_per_buyer::integer) END
 WHERE id = @drop_id
RETURNING id;

-- name: set_pause :maybe
-- Pause a drop, or let it go on with a null reason.
UPDATE drops SET paused_reason = @reason, terms_version = terms_version + 1
 WHERE id = @drop_id
RETURNING id;

-- name: begin_pause :maybe
-- Pause a drop for this reason unless it is paused already: who paused it first decides when it goes on.
UPDATE drops SET paused_reason = @reason, terms_version = terms_version + 1
 WHERE id = @drop_id AND paused_reason IS NULL
RETURNING id;

-- name: end_pause :maybe
-- Let a drop go on if it was paused for this reason.
UPDATE drops SET paused_reason = NULL, terms_version = terms_version + 1
 WHERE id = @drop_id AND paused_reason = @reason
RETURNING id;

-- name: close_drop :maybe
-- End a drop now. One that has not begun ends at its start; one that has ended stays as it is.
UPDATE drops
   SET ends_at = greatest(starts_at, least(ends_at, clock_timestamp())), terms_version = terms_version + 1
 WHERE id = @drop_id
RETURNING id;

-- name: stocks :many
-- The stock rows of drops, for the cheap poll.
SELECT s.drop_id, e.epoch, s.version, s.free, s.held, s.sold, s.withdrawn
  FROM stock AS s
 CROSS JOIN engine_state AS e
 WHERE s.drop_id = ANY (@drop_ids::bigint[]);

-- name: offers :many
-- Stock and terms of drops, as the bouncer is told them: the named ones, or all that may still sell
-- or did so within the hour. A drop that was filled or changed has newer terms.
SELECT e.epoch, s.drop_id, s.version, s.free, s.held, s.sold, s.withdrawn, s.total,
       d.terms_version,
       (extract(epoch FROM d.starts_at) * 1000)::bigint AS starts_ms,
       (extract(epoch FROM d.ends_at) * 1000)::bigint AS ends_ms,
       CASE WHEN d.prepared_at IS NULL THEN 'preparing' ELSE coalesce(d.paused_reason, '') END AS shut,
       coalesce(d.max_per_buyer, 0) AS max_per_buyer, d.max_per_order, d.total_stock AS promised,
       d.cooldown_factor, d.pick = 'named' AS is_named,
       (extract(epoch FROM clock_timestamp()) * 1000)::bigint AS now_ms,
       (extract(epoch FROM s.changed_at) * 1000)::bigint AS changed_ms
  FROM stock AS s
  JOIN drops AS d ON d.id = s.drop_id
 CROSS JOIN engine_state AS e
 WHERE s.drop_id = ANY (@drop_ids::bigint[])
    OR (@drop_ids::bigint[] IS NULL
        AND (s.held > 0
             OR s.changed_at > clock_timestamp() - interval '1 hour'
             OR (s.free > 0 AND (d.ends_at IS NULL OR d.ends_at > clock_timestamp() - interval '1 hour'))));

-- name: find_taken :many
-- Which of these named units of a drop are not on sale now: held, sold or withdrawn.
-- Index  units_pkey, unit_names_pkey
SELECT n.number,
       coalesce((SELECT k.name FROM unit_names AS k WHERE k.drop_id = @drop_id AND k.number = n.number),
                n.number::text) AS name
  FROM unnest(@numbers::integer[]) AS n (number)
 WHERE (SELECT u.state::text FROM units AS u
         WHERE u.drop_id = @drop_id AND u.number = n.number) IS DISTINCT FROM 'free'
 ORDER BY n.number;

-- name: free_numbers :one
-- The figures of a drop, and the units that are free at that version.
SELECT s.drop_id, e.epoch, s.version, s.free, s.held, s.sold, s.withdrawn, greatest(s.total, d.total_stock) AS total,
       ARRAY(SELECT u.number FROM units AS u
              WHERE u.drop_id = s.drop_id AND u.state = 'free'
              ORDER BY u.position) AS numbers
  FROM stock AS s
  JOIN drops AS d ON d.id = s.drop_id
 CROSS JOIN engine_state AS e
 WHERE s.drop_id = @drop_id;

-- name: longest_run :one
-- How many free units there are beside each other at most; see functions/longest_run.sql.
SELECT longest_run(@drop_id::bigint) AS units;

-- name: find_numbers :many
-- Which units these names are of, each looked up in its drop; unknown names have no row.
-- Index  a_name_names_one_unit
SELECT w.drop_id, w.name, u.number
  FROM unnest(@drop_ids::bigint[], @names::text[]) AS w (drop_id, name)
 CROSS JOIN LATERAL (SELECT k.number FROM unit_names AS k
                      WHERE k.drop_id = w.drop_id AND k.name = w.name OFFSET 0) AS u;

-- name: find_picks :many
-- How units of these drops are sold, and how many there are or will be.
SELECT d.id, d.pick = 'named' AS is_named, d.total_stock FROM drops AS d WHERE d.id = ANY (@drop_ids::bigint[]);

-- name: list_units :maybe
-- A drop's named units in their order, after a number, with what is the matter with each, at one version.
-- A hold that ran out and was not swept yet still has its units.
SELECT s.drop_id, e.epoch, s.version, s.total, d.pick, units.numbers, units.names, units.statuses
  FROM stock AS s
  JOIN drops AS d ON d.id = s.drop_id
 CROSS JOIN engine_state AS e
 CROSS JOIN LATERAL (
       SELECT coalesce(array_agg(shown.number ORDER BY shown.number), '{}') AS numbers,
              coalesce(array_agg(shown.name ORDER BY shown.number), '{}') AS names,
              coalesce(array_agg(shown.status ORDER BY shown.number), '{}') AS statuses
         FROM (SELECT n.number, n.name,
                      coalesce((SELECT u.state::text FROM units AS u
                                 WHERE u.drop_id = s.drop_id AND u.number = n.number),
                               (SELECT CASE WHEN r.state = 'purchased' THEN 'sold' ELSE 'held' END
                                  FROM picks AS k
                                  JOIN reservations AS r ON r.id = k.reservation_id
                                 WHERE k.drop_id = s.drop_id AND k.number = n.number),
                               'held') AS status
                 FROM unit_names AS n
                WHERE n.drop_id = s.drop_id
                  AND n.number > @after::integer
                  AND n.number <= s.total
                ORDER BY n.number
                LIMIT @count::bigint) AS shown) AS units
 WHERE s.drop_id = @drop_id;

-- name: keep_proof :one
-- Remember a recount; an older one never replaces a newer one.
INSERT INTO proofs AS p (drop_id, version, proven_at, problems)
VALUES (@drop_id, @version, @proven_at, @problems)
    ON CONFLICT (drop_id) DO UPDATE
   SET version = excluded.version, proven_at = greatest(p.proven_at, excluded.proven_at),
       problems = CASE WHEN excluded.proven_at >= p.proven_at THEN excluded.problems ELSE p.problems END
RETURNING drop_id;

-- name: find_proof :maybe
-- The newest recount of a drop, and how old it is.
SELECT p.version, p.proven_at, p.problems,
       extract(epoch FROM clock_timestamp() - p.proven_at)::float8 AS age_seconds
  FROM proofs AS p
 WHERE p.drop_id = @drop_id;

-- name: count_units :maybe
-- Stock row and rows of one drop, from one snapshot: what must be equal.
SELECT clock_timestamp() AS counted_at,
       s.version, s.free, s.held, s.sold, s.withdrawn, s.total, d.total_stock,
       u.free_rows, u.withdrawn_rows,
       r.live_units, p.bought_units, a.used_units, a.over_limit, d.pick, k.picked_rows
  FROM stock AS s
  JOIN drops AS d ON d.id = s.drop_id
 CROSS JOIN LATERAL (
       SELECT count(*) FILTER (WHERE units.state = 'free') AS free_rows,
              count(*) FILTER (WHERE units.state = 'withdrawn') AS withdrawn_rows
         FROM units
        WHERE units.drop_id = s.drop_id) AS u
 CROSS JOIN LATERAL (
       SELECT coalesce(sum(live.quantity), 0) AS live_units
         FROM reservations AS live
        WHERE live.drop_id = s.drop_id
          AND live.state IN ('active', 'paying')) AS r
 CROSS JOIN LATERAL (
       SELECT coalesce(sum(purchases.quantity), 0) AS bought_units
         FROM purchases
        WHERE purchases.drop_id = s.drop_id
          AND purchases.refunded_at IS NULL) AS p
 CROSS JOIN LATERAL (
       SELECT coalesce(sum(allowances.used), 0) AS used_units,
              count(*) FILTER (WHERE allowances.used > d.most_per_buyer) AS over_limit
         FROM allowances
        WHERE allowances.drop_id = s.drop_id) AS a
 CROSS JOIN LATERAL (
       SELECT count(*) AS picked_rows
         FROM picks
        WHERE picks.drop_id = s.drop_id) AS k
 WHERE s.drop_id = @drop_id;

-- name: find_strays :many
-- Units of a drop that are not in exactly one place of three: on the shelf, in a live hold, in a
-- purchase that stands, and then in its hold, too. None, always. The first few, in words for whoever
-- must mend them, each with how many there are. Numbers are summed up first: words are made for those
-- that are named.
WITH upto AS MATERIALIZED (
    SELECT s.total FROM stock AS s WHERE s.drop_id = @drop_id
), strays AS MATERIALIZED (
    SELECT each.number, count(*) OVER () AS total
      FROM (SELECT n.number, 1 AS known, 0 AS places, 0 AS bought
              FROM upto CROSS JOIN LATERAL generate_series(1, upto.total) AS n (number)
             UNION ALL
            SELECT u.number, 0, 1, 0 FROM units AS u WHERE u.drop_id = @drop_id
             UNION ALL
            SELECT unnest(r.units), 0, CASE WHEN r.state = 'purchased' THEN 0 ELSE 1 END,
                   CASE WHEN r.state = 'purchased' THEN -1 ELSE 0 END
              FROM reservations AS r
             WHERE r.drop_id = @drop_id AND r.state IN ('active', 'paying', 'purchased')
             UNION ALL
            SELECT unnest(b.units), 0, 1, 1 FROM purchases AS b
             WHERE b.drop_id = @drop_id AND b.refunded_at IS NULL) AS each
     GROUP BY each.number
    HAVING (sum(each.known), sum(each.places), sum(each.bought)) <> (1, 1, 0)
     ORDER BY each.number
     LIMIT @count::bigint
)
SELECT format('unit %s is %s', strays.number,
              coalesce(string_agg(place.words, ' and ' ORDER BY place.words),
                       'nowhere' || coalesce(max(', since hold ' || gone.words), ''))) AS words,
       strays.total
  FROM strays
 CROSS JOIN upto
  LEFT JOIN LATERAL (
       SELECT format('on the shelf, %s', u.state) AS words
         FROM units AS u
        WHERE u.drop_id = @drop_id AND u.number = strays.number
        UNION ALL
       SELECT format('of hold %s of %s, %s', r.id, r.buyer, r.state)
         FROM reservations AS r
        WHERE r.drop_id = @drop_id AND strays.number = ANY (r.units)
          AND r.state IN ('active', 'paying', 'purchased')
        UNION ALL
       SELECT format('of purchase %s of %s', b.id, b.buyer)
         FROM purchases AS b
        WHERE b.drop_id = @drop_id AND strays.number = ANY (b.units) AND b.refunded_at IS NULL
        UNION ALL
       SELECT format('not one of %s', upto.total) WHERE strays.number NOT BETWEEN 1 AND upto.total) AS place ON true
  LEFT JOIN LATERAL (
       SELECT format('%s of %s was %s', r.id, r.buyer, r.state) AS words
         FROM reservations AS r
        WHERE place.words IS NULL AND r.drop_id = @drop_id AND strays.number = ANY (r.units)
        ORDER BY r.id DESC
        LIMIT 1) AS gone ON true
 GROUP BY strays.number, strays.total
 ORDER BY strays.number;

-- name: find_misfits :many
-- Buyers of a drop who are counted as having another number of units than they own, and purchases that
-- are not those of their holds: none, always. The first few, each with how many there are.
SELECT found.words, count(*) OVER () AS total FROM (
SELECT format('%s owns %s, is counted with %s', coalesce(owned.buyer, counted.buyer), coalesce(owned.units, 0),
              coalesce(counted.used, 0)) AS words
  FROM (SELECT r.buyer, sum(r.quantity) AS units
          FROM reservations AS r
         WHERE r.drop_id = @drop_id
           AND r.state IN ('active', 'paying', 'purchased')
         GROUP BY r.buyer) AS owned
  FULL JOIN (SELECT a.buyer, a.used FROM allowances AS a WHERE a.drop_id = @drop_id) AS counted
    ON counted.buyer = owned.buyer
 WHERE coalesce(owned.units, 0) <> coalesce(counted.used, 0)
 UNION ALL
SELECT format('purchase %s of %s is not that of hold %s', b.id, b.buyer, b.reservation_id)
  FROM purchases AS b
  LEFT JOIN reservations AS r ON r.id = b.reservation_id
 WHERE b.drop_id = @drop_id
   AND b.refunded_at IS NULL
   AND (r.id IS NULL OR r.state <> 'purchased'
        OR (r.drop_id, r.buyer, r.quantity, r.units) IS DISTINCT FROM (b.drop_id, b.buyer, b.quantity, b.units))
) AS found
 ORDER BY 1
 LIMIT @count::bigint;

-- name: find_misnamed :many
-- Units of a drop that nobody could pick rightly: not with whom `picks` says they are, or not on the shelf
-- and with nobody there, or without a name; and where units have no names, whatever is said of any. None,
-- always. The first few, each with how many there are.
SELECT found.words, count(*) OVER () AS total FROM (
SELECT format('unit %s is of hold %s, picked by %s', coalesce(owned.number, k.number), coalesce(owned.id::text, 'none'),
              coalesce(k.reservation_id::text, 'none')) AS words
  FROM (SELECT u.number, r.id
          FROM drops AS d
          JOIN reservations AS r ON r.drop_id = d.id
         CROSS JOIN LATERAL unnest(r.units) AS u (number)
         WHERE d.id = @drop_id
           AND d.pick = 'named'
           AND r.state IN ('active', 'paying', 'purchased')) AS owned
  FULL JOIN (SELECT picks.number, picks.reservation_id FROM picks WHERE picks.drop_id = @drop_id) AS k
    ON k.number = owned.number
 WHERE k.reservation_id IS DISTINCT FROM owned.id
 UNION ALL
SELECT format('unit %s has no name', n.number)
  FROM drops AS d
  JOIN stock AS s ON s.drop_id = d.id
 CROSS JOIN LATERAL generate_series(1, s.total) AS n (number)
  LEFT JOIN unit_names AS u ON u.drop_id = d.id AND u.number = n.number
 WHERE d.id = @drop_id
   AND d.pick = 'named'
   AND u.name IS NULL
) AS found
 ORDER BY 1
 LIMIT @count::bigint;

-- name: prune_tombstones :one
-- Forget old tombstones: no statement lives for hours.
-- Index  reservations_aborted_by_age
WITH gone AS (
    DELETE FROM reservations
     WHERE id = ANY (ARRAY(SELECT r.id
                             FROM reservations AS r
                            WHERE r.state = 'aborted'
                              AND r.created_at < clock_timestamp() - make_interval(hours => @hours::integer)
                            ORDER BY r.created_at
                            LIMIT @count::bigint))
    RETURNING id
)
SELECT count(*) AS pruned FROM gone;

-- name: prune_allowances :one
-- Forget buyers who use nothing of a drop's limit. Who let holds go is remembered for a day longer
-- than he must wait: the next one counts as another in a row.
WITH gone AS (
    DELETE FROM allowances AS a
     USING (SELECT z.drop_id, z.buyer
              FROM allowances AS z
             WHERE z.used = 0
               AND (z.cools_until IS NULL OR z.cools_until < clock_timestamp() - interval '1 day')
             LIMIT @count::bigint
               FOR UPDATE SKIP LOCKED) AS unused
     WHERE a.drop_id = unused.drop_id AND a.buyer = unused.buyer AND a.used = 0
    RETURNING a.buyer
)
SELECT count(*) AS pruned FROM gone;

-- name: drops_pictured :many
-- The drops that show these pictures, newest first, and whether anybody holds or bought of them.
SELECT d.id, d.image_url, s.held + s.sold > 0 AS touched
  FROM drops AS d
  JOIN stock AS s ON s.drop_id = d.id
 WHERE d.image_url = ANY (@images::text[])
 ORDER BY d.id DESC;

-- name: move_start :maybe
-- Let a drop start so many seconds from now.
UPDATE drops
   SET starts_at = clock_timestamp() + make_interval(secs => @seconds::float8), terms_version = terms_version + 1
 WHERE id = @drop_id
RETURNING id;

-- name: warmest :many
-- Drops that may still sell, or did so within the hour: those that changed last.
SELECT s.drop_id
  FROM stock AS s
  JOIN drops AS d ON d.id = s.drop_id
 WHERE s.held > 0
    OR s.changed_at > clock_timestamp() - interval '1 hour'
    OR (s.free > 0 AND (d.ends_at IS NULL OR d.ends_at > clock_timestamp() - interval '1 hour'))
 ORDER BY s.changed_at DESC, s.drop_id DESC
 LIMIT @count::bigint;

-- name: vital_signs :one
-- How the sale is, as far as Postgres knows: one figure a column, each named like its metric.
-- Index  reservations_by_deadline, outbox_pkey, refunds_due, payments_undecided
SELECT warm.*, facts.*, alive.*, owed.*, undecided.*, cold.*,
       coalesce(greatest(extract(epoch FROM clock_timestamp() - due.next), 0), 0)::float8 AS expiry_lag_seconds
  FROM (SELECT count(*) AS warm_drops,
               -- A drop that nobody has counted yet is as old as itself.
               coalesce(extract(epoch FROM clock_timestamp() - min(coalesce(p.proven_at, d.created_at))),
                        0)::float8 AS audit_age_seconds,
               count(*) FILTER (WHERE p.problems <> '{}') AS audit_problem_drops,
               count(*) FILTER (WHERE d.paused_reason = 'audit') AS audit_paused_drops
          FROM stock AS s
          JOIN drops AS d ON d.id = s.drop_id
          LEFT JOIN proofs AS p ON p.drop_id = s.drop_id
         WHERE s.held > 0
            OR s.changed_at > clock_timestamp() - interval '1 hour'
            OR (s.free > 0 AND (d.ends_at IS NULL OR d.ends_at > clock_timestamp() - interval '1 hour'))) AS warm
 CROSS JOIN (SELECT coalesce(max(newest.id) - min(oldest.id) + 1, 0) AS outbox_facts,
                    coalesce(extract(epoch FROM clock_timestamp() - min(oldest.created_at)),
                             0)::float8 AS outbox_oldest_seconds
               FROM (SELECT o.id FROM outbox AS o ORDER BY o.id DESC LIMIT 1) AS newest
              CROSS JOIN (SELECT o.id, o.created_at FROM outbox AS o ORDER BY o.id LIMIT 1) AS oldest) AS facts
 CROSS JOIN (SELECT count(*) FILTER (WHERE k.beat_at > clock_timestamp()
                                                     - make_interval(secs => @seconds::float8)) AS keepers,
                    extract(epoch FROM clock_timestamp() - max(k.beat_at))::float8 AS keeper_beat_age_seconds
               FROM keepers AS k) AS alive
 CROSS JOIN (SELECT count(*) AS refunds_due,
                    coalesce(extract(epoch FROM clock_timestamp() - min(f.due_at)),
                             0)::float8 AS refund_oldest_seconds
               FROM refunds AS f
              WHERE f.done_at IS NULL) AS owed
 CROSS JOIN (SELECT count(*) AS payments_undecided,
                    coalesce(extract(epoch FROM clock_timestamp() - min(p.changed_at)),
                             0)::float8 AS payment_undecided_seconds
               FROM payments AS p
              WHERE p.status = 'succeeded' AND p.outcome IS NULL) AS undecided
 CROSS JOIN (SELECT count(*) AS slots_critical FROM slots AS z WHERE z.temp_status = 'CRITICAL') AS cold
 CROSS JOIN (SELECT min(r.expires_at) AS next
               FROM reservations AS r
              WHERE r.state IN ('active', 'paying')) AS due;
