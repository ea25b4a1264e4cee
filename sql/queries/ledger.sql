-- name: find_waiting :maybe
-- The newest of what waits to be sealed, if anything does.
-- Index  records_pkey
SELECT r.id FROM records AS r ORDER BY r.id DESC LIMIT 1;

-- name: lock_head :maybe
-- The end of the chain, which is ours until the transaction ends; no row while another sealer has it.
-- Locks  the head row
SELECT h.*, date_trunc('milliseconds', clock_timestamp()) AS now FROM ledger_head AS h FOR UPDATE SKIP LOCKED;

-- name: read_head :maybe
-- The end of the chain, and the last rows there are: of one moment, so that they must agree. `has_strays`: there are
-- rows where nothing is looked for, before the first, or subtrees of links that are not there.
-- Index  ledger_links_pkey, ledger_entries_pkey, ledger_nodes_pkey
SELECT h.*, (SELECT coalesce(max(l.height), 0) FROM ledger_links AS l) AS last_height,
       (SELECT coalesce(max(e.sequence), 0) FROM ledger_entries AS e) AS last_sequence,
       EXISTS (SELECT FROM ledger_entries AS e WHERE e.sequence < 1)
         OR EXISTS (SELECT FROM ledger_links AS l WHERE l.height < 1)
         OR EXISTS (SELECT FROM generate_series(0, 62) AS g (level)
                     WHERE EXISTS (SELECT FROM ledger_nodes AS n
                                    WHERE n.level = g.level AND n.place >= h.height >> g.level)) AS has_strays,
       clock_timestamp() AS now
  FROM ledger_head AS h;

-- name: read_waiting :many
-- What is to be sealed next, in order: whole rows, until they tell of so many records, of which an entry counts as
-- `weight`. What is sealed by entry brings its content; of the rest, which is sealed in Postgres, nothing but the
-- number travels.
-- Index  records_pkey
SELECT w.id, w.action, w.made_at, w.count, w.slots, w.manifests, w.buyers,
       CASE WHEN w.slots IS NOT NULL THEN w.subjects END AS subjects
  FROM (SELECT r.*, sum(r.weight) OVER (ORDER BY r.id) - r.weight AS before
          FROM (SELECT k.*, cardinality(k.subjects) AS count,
                       cardinality(k.subjects) * CASE WHEN k.slots IS NULL THEN 1 ELSE @weight::bigint END AS weight
                  FROM records AS k ORDER BY k.id LIMIT @most::bigint) AS r) AS w
 WHERE w.before < @most::bigint
 ORDER BY w.id;

-- name: seal_records :one
-- One block of them; see functions/seal_records.sql.
SELECT * FROM seal_records(@rows::bigint[], @skip::integer, @take::integer, @height::bigint, @first::bigint);

-- name: salt_buyers :many
-- What the ledger calls these buyers. Who has no salt gets one.
-- Index  ledger_salts_pkey
WITH given AS (
    INSERT INTO ledger_salts AS k (buyer, salt, since, subject)
    SELECT w.buyer, w.salt, @first::bigint, salted(w.salt, w.buyer)
      FROM (SELECT DISTINCT ON (b.buyer) b.buyer, uuid_send(gen_random_uuid()) AS salt
              FROM unnest(@buyers::text[]) AS b (buyer)
             WHERE NOT EXISTS (SELECT FROM ledger_salts AS s WHERE s.buyer = b.buyer)
            OFFSET 0) AS w
        ON CONFLICT (buyer) DO NOTHING
 RETURNING k.buyer, k.salt
)
SELECT g.buyer, salted(g.salt, g.buyer) AS subject FROM given AS g
UNION ALL
SELECT s.buyer, salted(s.salt, s.buyer) FROM ledger_salts AS s WHERE s.buyer = ANY (@buyers::text[]);

-- name: append_entries :one
-- Records that are sealed one by one, with their content.
WITH made AS (
    INSERT INTO ledger_entries (sequence, height, action, subject_id, subject, recorded_at, leaf, content)
    SELECT * FROM unnest(@sequences::bigint[], @heights::bigint[], @actions::text[], @ids::uuid[], @subjects::text[],
                         @times::timestamptz[], @leaves::bytea[], @contents::text[])
 RETURNING sequence
)
SELECT count(*) AS made FROM made;

-- name: append_links :one
-- Links, and the roots of subtrees that they complete.
WITH linked AS (
    INSERT INTO ledger_links (height, is_block, first_sequence, records, root, previous_hash, data_hash, nonce,
                              key_id, sealed_at)
    SELECT * FROM unnest(@heights::bigint[], @blocks::boolean[], @firsts::bigint[], @records::integer[],
                         @roots::bytea[], @previous::text[], @hashes::text[], @nonces::integer[], @keys::text[],
                         @times::timestamptz[])
 RETURNING height
), grown AS (
    INSERT INTO ledger_nodes (level, place, hash)
    SELECT * FROM unnest(@levels::integer[], @places::bigint[], @nodes::bytea[])
 RETURNING level
)
SELECT (SELECT count(*) FROM linked) AS links, (SELECT count(*) FROM grown) AS nodes;

-- name: end_sealing :one
-- The new head; what is sealed waits no more; and whoever listens is told.
WITH gone AS (
    DELETE FROM records WHERE id = ANY (@rows::bigint[]) RETURNING id
), told AS (
    INSERT INTO outbox (drop_id, epoch, version, kind, subjects)
    SELECT 0, e.epoch, @sequence::bigint, 'sealed', '{}' FROM engine_state AS e
 RETURNING id
)
UPDATE ledger_head
   SET height = @height::bigint, sequence = @sequence::bigint, data_hash = @data_hash::text,
       peaks = @peaks::bytea[], root = @root::bytea, hmac_key = @hmac_key::text, signing_key = @signing_key::text,
       signature = @signature::bytea, sealed_at = @sealed_at::timestamptz
RETURNING (SELECT count(*) FROM gone) AS gone, (SELECT count(*) FROM told) AS told;

-- name: keep_key :one
-- Keys that are in force from a link on. Once: keys that were in force before do not come back.
INSERT INTO ledger_keys (hmac_key, signing_key, public_key, since, voucher)
VALUES (@hmac_key, @signing_key, @public_key, @since, @voucher)
RETURNING since;

-- name: list_keys :many
-- All keys there were, in their order.
SELECT * FROM ledger_keys ORDER BY since, made_at;

-- name: read_links :many
-- The links after a height, with what the history tree has of each: its leaf, and the subtrees that it completes.
-- Index  ledger_links_pkey, ledger_nodes_pkey
SELECT l.*, n.hash AS node
  FROM ledger_links AS l
  LEFT JOIN LATERAL (SELECT string_agg(t.hash, ''::bytea ORDER BY g.level) AS hash
                       FROM generate_series(0, (ln((l.height & -l.height)::float8) / ln(2))::integer) AS g (level)
                      CROSS JOIN LATERAL (SELECT x.hash FROM ledger_nodes AS x
                                           WHERE x.level = g.level AND x.place = (l.height >> g.level) - 1
                                          OFFSET 0) AS t) AS n ON true
 WHERE l.height > @after::bigint
 ORDER BY l.height
 LIMIT @count::bigint;

-- name: find_successor :maybe
-- The link that follows a hash, if it stands elsewhere than it should.
-- Index  a_link_has_one_successor
SELECT l.height FROM ledger_links AS l WHERE l.previous_hash = @previous AND l.height <> @due::bigint;

-- name: read_records :many
-- Records of a stretch as they were sealed, and what the rows that they tell of say now: `changed_record` if they say
-- something else, `removed_record` if there are none; of a booking also its purchase. A buyer whose salt is gone is not
-- compared: but what was sealed under the salt of one buyer is no other's, whether that one has a salt or not.
-- Index  ledger_entries_pkey, purchases_pkey, bookings_pkey, ledger_links_pkey, ledger_salts_pkey,
--        ledger_salts_by_subject
SELECT e.sequence, e.height, e.action, e.leaf, e.content,
       CASE
           WHEN e.action IN ('PURCHASED', 'MINTED', 'REFUNDED') THEN
               CASE WHEN p.id IS NULL THEN 'removed_record'
                    WHEN e.content <> purchase_content(
                             e.sequence, e.action, p.id, p.reservation_id, p.drop_id, p.units, p.amount_cents,
                             d.currency, p.restocked, coalesce(salted(k.salt, p.buyer), e.subject),
                             CASE e.action WHEN 'REFUNDED' THEN p.refunded_at ELSE p.purchased_at END)
                      IS NOT FALSE
                      OR e.subject <> coalesce(salted(k.salt, p.buyer), e.subject)
                      OR e.recorded_at <> CASE e.action WHEN 'REFUNDED' THEN p.refunded_at ELSE p.purchased_at END
                      OR p.quantity <> cardinality(p.units)
                      OR (e.action = 'MINTED' AND (SELECT (m.drop_id, ARRAY[m.number], m.buyer, m.minted_at)
                                                          = (p.drop_id, p.units, p.buyer, p.purchased_at)
                                                     FROM memberships AS m WHERE m.id = p.id) IS NOT TRUE)
                      OR is_another.s
                    THEN 'changed_record' END
           WHEN e.action IN ('BOOKING_CONFIRMED', 'BOOKING_RELEASED', 'TEMP_CRITICAL') THEN
               CASE WHEN b.id IS NULL OR p.id IS NULL THEN 'removed_record'
                    WHEN e.content <> booking_content(
                             b.id, (b.drop_id << 20) + b.number, b.manifest_id,
                             coalesce(salted(k.salt, b.buyer), e.subject), e.action, e.recorded_at, l.previous_hash)
                      IS NOT FALSE
                      OR e.subject <> coalesce(salted(k.salt, b.buyer), e.subject)
                      OR (e.action = 'BOOKING_CONFIRMED' AND e.recorded_at <> b.confirmed_at)
                      OR (e.action = 'BOOKING_RELEASED' AND (e.recorded_at <> b.released_at) IS NOT FALSE)
                      OR (p.reservation_id, p.drop_id, p.units, p.quantity, p.buyer, p.purchased_at)
                         <> (b.reservation_id, b.drop_id, ARRAY[b.number], 1, b.buyer, b.confirmed_at)
                      OR p.refunded_at IS DISTINCT FROM b.released_at
                      OR is_another.s
                    THEN 'changed_record' END
       END AS doubt
  FROM ledger_entries AS e
  LEFT JOIN LATERAL (SELECT * FROM bookings AS x
                      WHERE x.id = e.subject_id AND e.action NOT IN ('PURCHASED', 'MINTED', 'REFUNDED') OFFSET 0) AS b ON true
  LEFT JOIN LATERAL (SELECT * FROM purchases AS x
                      WHERE x.id = CASE WHEN e.action IN ('PURCHASED', 'MINTED', 'REFUNDED') THEN e.subject_id
                                        ELSE b.purchase_id END OFFSET 0) AS p ON true
  LEFT JOIN LATERAL (SELECT x.currency FROM drops AS x WHERE x.id = p.drop_id OFFSET 0) AS d ON true
  LEFT JOIN LATERAL (SELECT x.previous_hash FROM ledger_links AS x WHERE x.height = e.height OFFSET 0) AS l ON true
  LEFT JOIN LATERAL (SELECT x.salt FROM ledger_salts AS x
                      WHERE x.buyer = coalesce(p.buyer, b.buyer) AND x.since <= e.sequence OFFSET 0) AS k ON true
 CROSS JOIN LATERAL (SELECT EXISTS (SELECT FROM ledger_salts AS x
                                     WHERE x.subject = e.subject
                                       AND x.buyer <> coalesce(p.buyer, b.buyer)) AS s) AS is_another
 WHERE e.sequence BETWEEN @first::bigint AND @last::bigint
 ORDER BY e.sequence;

-- name: explain_record :maybe
-- A record of a purchase or of a booking as it was sealed, and as it would be sealed now; `present` is null if what it
-- tells of is gone. For people, of the one record that a look found wanting.
-- Index  ledger_entries_pkey, purchases_pkey, bookings_pkey, ledger_links_pkey, ledger_salts_pkey
SELECT e.content,
       CASE WHEN e.action IN ('PURCHASED', 'MINTED', 'REFUNDED') THEN
                purchase_content(
                    e.sequence, e.action, p.id, p.reservation_id, p.drop_id, p.units, p.amount_cents, d.currency,
                    p.restocked, coalesce(salted(k.salt, p.buyer), e.subject),
                    CASE e.action WHEN 'REFUNDED' THEN p.refunded_at ELSE p.purchased_at END)
            ELSE
                booking_content(
                    b.id, (b.drop_id << 20) + b.number, b.manifest_id, coalesce(salted(k.salt, b.buyer), e.subject),
                    e.action, CASE e.action WHEN 'BOOKING_CONFIRMED' THEN b.confirmed_at
                                            WHEN 'BOOKING_RELEASED' THEN b.released_at
                                            ELSE e.recorded_at END, l.previous_hash)
       END AS present
  FROM ledger_entries AS e
  LEFT JOIN purchases AS p ON p.id = e.subject_id AND e.action IN ('PURCHASED', 'MINTED', 'REFUNDED')
  LEFT JOIN bookings AS b ON b.id = e.subject_id AND e.action NOT IN ('PURCHASED', 'MINTED', 'REFUNDED')
  LEFT JOIN LATERAL (SELECT x.currency FROM drops AS x WHERE x.id = p.drop_id OFFSET 0) AS d ON true
  LEFT JOIN LATERAL (SELECT x.previous_hash FROM ledger_links AS x WHERE x.height = e.height OFFSET 0) AS l ON true
  LEFT JOIN LATERAL (SELECT x.salt FROM ledger_salts AS x
                      WHERE x.buyer = coalesce(p.buyer, b.buyer) AND x.since <= e.sequence OFFSET 0) AS k ON true
 WHERE e.sequence = @sequence::bigint;

-- name: list_missing :many
-- Of the purchases from one on (in the order of their ids), which facts have not exactly one record: neither sealed nor
-- waiting, or more than one. A purchase of a slot is recorded as its booking, which is looked for also if its purchase
-- is not there, one by a receipt as minted. Always a row that names the last purchase that was looked at, if any was. One statement, so that
-- nothing is between waiting and sealed.
-- Index  purchases_pkey, ledger_entries_by_subject, bookings_purchase_id_key, memberships_pkey
WITH page AS MATERIALIZED (
    SELECT u.id, max(u.refunded_at) AS refunded_at
      FROM ((SELECT p.id, p.refunded_at FROM purchases AS p
              WHERE p.id >= @first::uuid ORDER BY p.id LIMIT @count::bigint)
            UNION ALL
            (SELECT b.purchase_id, NULL FROM bookings AS b
              WHERE b.purchase_id >= @first::uuid ORDER BY b.purchase_id LIMIT @count::bigint)) AS u
     GROUP BY u.id ORDER BY u.id LIMIT @count::bigint
), facts AS (
    SELECT g.id, coalesce(b.id, g.id) AS subject, f.action
      FROM page AS g
      LEFT JOIN LATERAL (SELECT x.id, x.released_at FROM bookings AS x WHERE x.purchase_id = g.id OFFSET 0) AS b ON true
      LEFT JOIN LATERAL (SELECT x.id FROM memberships AS x WHERE x.id = g.id OFFSET 0) AS m ON true
     CROSS JOIN LATERAL (SELECT CASE WHEN b.id IS NOT NULL THEN 'BOOKING_CONFIRMED'
                                     WHEN m.id IS NOT NULL THEN 'MINTED'
                                     ELSE 'PURCHASED' END
                         UNION ALL
                         SELECT CASE WHEN b.id IS NOT NULL THEN 'BOOKING_RELEASED' ELSE 'REFUNDED' END
                          WHERE g.refunded_at IS NOT NULL OR b.released_at IS NOT NULL) AS f (action)
), waiting AS MATERIALIZED (  -- once: compared one by one, a backlog would be read for each
    SELECT r.action, u.id FROM records AS r CROSS JOIN unnest(r.subjects) AS u (id)
), counted AS (
    SELECT f.id, f.subject, f.action, n.count
      FROM facts AS f
     CROSS JOIN LATERAL (SELECT count(*) AS count FROM ledger_entries AS e
                          WHERE e.subject_id = f.subject AND e.action = f.action OFFSET 0) AS n
)
SELECT c.subject, c.action, CASE WHEN c.count > 1 THEN 'doubled_record' ELSE 'missing_record' END AS reason
  FROM counted AS c
  LEFT JOIN waiting AS w ON w.id = c.subject AND w.action = c.action
 WHERE c.count > 1 OR (c.count = 0 AND w.id IS NULL)
UNION ALL
(SELECT g.id, NULL, NULL FROM page AS g ORDER BY g.id DESC LIMIT 1);

-- name: list_records :many
-- Records before a sequence, newest first, each with its link.
-- Index  ledger_entries_pkey, ledger_links_pkey
SELECT e.sequence, e.action, e.subject, e.recorded_at, l.height, l.is_block, l.first_sequence, l.records,
       l.previous_hash, l.data_hash, l.nonce
  FROM ledger_entries AS e
  JOIN ledger_links AS l ON l.height = e.height
 WHERE e.sequence < @before::bigint
 ORDER BY e.sequence DESC
 LIMIT @count::bigint;

-- name: find_record :maybe
-- One record with the leaves of its block, in order.
-- Index  ledger_entries_pkey, ledger_links_pkey
SELECT e.content, e.leaf, e.action, l.*,
       (SELECT string_agg(o.leaf, ''::bytea ORDER BY o.sequence) FROM ledger_entries AS o
         WHERE o.sequence BETWEEN l.first_sequence AND l.first_sequence + l.records - 1) AS leaves
  FROM ledger_entries AS e
  JOIN ledger_links AS l ON l.height = e.height
 WHERE e.sequence = @sequence::bigint;

-- name: find_nodes :many
-- Roots of perfect subtrees.
-- Index  ledger_nodes_pkey
SELECT n.level, n.place, n.hash
  FROM unnest(@levels::integer[], @places::bigint[]) AS w (level, place)
  JOIN ledger_nodes AS n ON n.level = w.level AND n.place = w.place;

-- name: find_sequences :many
-- Where purchases stand in the ledger; those that are not sealed yet are absent. A purchase of a slot stands there as
-- its booking.
-- Index  ledger_entries_by_subject, bookings_purchase_id_key
SELECT w.id, e.sequence
  FROM unnest(@ids::uuid[]) AS w (id)
  LEFT JOIN LATERAL (SELECT b.id FROM bookings AS b WHERE b.purchase_id = w.id OFFSET 0) AS b ON true
 CROSS JOIN LATERAL (SELECT min(x.sequence) AS sequence FROM ledger_entries AS x
                      WHERE x.subject_id = coalesce(b.id, w.id) OFFSET 0) AS e
 WHERE e.sequence IS NOT NULL;

-- name: find_entry :maybe
-- What the ledger has of one thing that was done to a subject, the last time if it was often; no row until it is sealed.
-- Index  ledger_entries_by_subject, ledger_links_pkey
SELECT e.sequence, e.action, e.subject, e.recorded_at, l.height, l.is_block, l.first_sequence, l.records,
       l.previous_hash, l.data_hash, l.nonce
  FROM (SELECT x.* FROM ledger_entries AS x
         WHERE x.subject_id = @subject_id AND x.action = @action
         ORDER BY x.sequence DESC LIMIT 1) AS e
 CROSS JOIN LATERAL (SELECT * FROM ledger_links AS x WHERE x.height = e.height OFFSET 0) AS l;

-- name: forget_salt :maybe
-- Erase a buyer from the ledger: his hashes are nobody's from now on.
DELETE FROM ledger_salts WHERE buyer = @buyer RETURNING since;

-- name: ledger_signs :one
-- How the ledger is, a figure a column, each named like its metric.
-- Index  records_pkey
SELECT (SELECT coalesce(sum(cardinality(r.subjects)), 0) FROM records AS r)::float8 AS ledger_unsealed,
       coalesce(extract(epoch FROM clock_timestamp() - (SELECT r.made_at FROM records AS r ORDER BY r.id LIMIT 1)),
                0)::float8 AS ledger_lag_seconds,
       h.sequence::float8 AS ledger_sequence,
       (c.verdict::jsonb #>> '{verdict,valid}')::boolean::integer::float8 AS ledger_valid,
       CASE WHEN c.verdict IS NOT NULL
            THEN extract(epoch FROM clock_timestamp() - c.ended_at) END::float8 AS ledger_checked_age_seconds
  FROM ledger_head AS h CROSS JOIN ledger_checks AS c;

-- name: read_check :one
-- The last look at the whole chain, and the one under way.
SELECT c.*, clock_timestamp() AS now FROM ledger_checks AS c;

-- name: claim_check :maybe
-- Begin a look, unless one is under way (it gives a sign of life every second) or ended a moment ago.
UPDATE ledger_checks
   SET runner = @runner::uuid, beat_at = clock_timestamp(), checked = 0, entries = 0
 WHERE beat_at < clock_timestamp() - make_interval(secs => @silent_seconds::float8)
   AND ended_at < clock_timestamp() - make_interval(secs => @fresh_seconds::float8)
RETURNING runner;

-- name: beat_check :maybe
-- A sign of life of a look, and how far it is.
UPDATE ledger_checks SET beat_at = clock_timestamp(), checked = @checked::bigint, entries = @entries::bigint
 WHERE runner = @runner::uuid
RETURNING runner;

-- name: end_check :maybe
-- What a look found; without a verdict it was broken off.
UPDATE ledger_checks
   SET runner = NULL, beat_at = '-infinity', verdict = coalesce(@verdict::text, verdict), mac = coalesce(@mac::text, mac),
       ended_at = CASE WHEN @verdict::text IS NULL THEN ended_at ELSE @ended_at::timestamptz END
 WHERE runner = @runner::uuid
RETURNING only_row;
