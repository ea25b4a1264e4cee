-- name: open_membership_drop :one
-- Make members' numbers of a drop's units.
INSERT INTO membership_drops (drop_id, tier, year) VALUES (@drop_id, @tier, @year) RETURNING drop_id;

-- name: find_membership_drops :many
-- Membership drops with their terms and stock, the newest first: all, or (not null) one by its id or by tier and year.
-- Index  drops_pkey, stock_pkey
SELECT k.drop_id, k.tier, k.year, d.name, d.image_url, d.starts_at, d.ends_at, d.max_per_buyer,
       drop_status(d, s) AS status, greatest(s.total, d.total_stock) AS total, s.free, s.sold, s.withdrawn, s.version
  FROM membership_drops AS k
  JOIN drops AS d ON d.id = k.drop_id
  JOIN stock AS s ON s.drop_id = k.drop_id
 WHERE (@drop_id::bigint IS NULL OR k.drop_id = @drop_id)
   AND (@tier::text IS NULL OR (k.tier, k.year) = (@tier, @year::text))
 ORDER BY k.drop_id DESC
 LIMIT @count::bigint;

-- name: present_receipts :many
-- Write down receipts that are to be minted; see functions/present_receipts.sql.
SELECT * FROM present_receipts(@ids::uuid[], @hashes::bytea[], @transactions::text[], @buyers::text[], @drops::bigint[]);

-- name: find_receipt :maybe
-- A receipt that was presented before, as present_receipts tells of it; nothing is written.
-- Index  receipt_hashes_pkey, a_transaction_has_one_receipt, receipts_pkey
SELECT CASE WHEN r.buyer <> @buyer THEN 'used' ELSE r.state END AS word, r.id AS receipt, r.drop_id, r.attempts,
       r.membership_id AS membership
  FROM receipts AS r
 WHERE r.id = coalesce((SELECT h.receipt_id FROM receipt_hashes AS h WHERE h.hash = @hash),
                       (SELECT o.id FROM receipts AS o WHERE o.original_transaction_id = @transaction));

-- name: fail_receipts :many
-- Give up receipts that took nothing; see functions/fail_receipts.sql.
SELECT * FROM fail_receipts(@ids::uuid[], @attempts::integer[], @errors::text[]);

-- name: give_up_receipts :many
-- Give up what dead workers left pending: it may be presented again, and a mint that still comes finds it so. What
-- somebody has in his hands is left to him.
-- Locks  receipts (SKIP LOCKED)
-- Index  receipts_pending, receipts_pkey
WITH stuck AS MATERIALIZED (
    SELECT r.id
      FROM receipts AS r
     WHERE r.state = 'pending' AND r.changed_at < clock_timestamp() - make_interval(secs => @seconds::float8)
     ORDER BY r.changed_at
     LIMIT @count::bigint
       FOR UPDATE SKIP LOCKED
)
UPDATE receipts AS r
   SET state = 'failed', error = 'RETRYABLE', changed_at = clock_timestamp()
  FROM stuck
 WHERE r.id = stuck.id
RETURNING r.id;

-- name: mint_units :one
-- Give each receipt of a batch its number; see functions/mint_units.sql.
SELECT * FROM mint_units(
    @drop_id::bigint, @epoch::bigint, @requests::uuid[], @attempts::bigint[], @ids::uuid[], @buyers::text[],
    @quantities::integer[], @buyers_once::text[], @units_once::integer[]);

-- name: find_memberships :many
-- Memberships by id.
-- Index  memberships_pkey, membership_drops_pkey
SELECT m.id, m.drop_id, k.tier, k.year, m.number, m.buyer, m.minted_at, m.changed_at, m.revoked_at, m.revoke_reason
  FROM memberships AS m
  JOIN membership_drops AS k ON k.drop_id = m.drop_id
 WHERE m.id = ANY (@ids::uuid[]);

-- name: lock_membership :maybe
-- One membership, which nobody changes meanwhile.
-- Locks  the membership
-- Index  memberships_pkey, membership_drops_pkey
SELECT m.id, m.drop_id, k.tier, k.year, m.number, m.buyer, m.minted_at, m.changed_at, m.revoked_at, m.revoke_reason
  FROM memberships AS m
  JOIN membership_drops AS k ON k.drop_id = m.drop_id
 WHERE m.id = @id
   FOR UPDATE OF m;

-- name: list_memberships :many
-- Memberships, the newest first, before a cursor: all, a drop's, one number's, a tier's, a year's, or (not null) only
-- revoked or only live ones.
-- Index  memberships_pkey, membership_drops_pkey
SELECT m.id, m.drop_id, k.tier, k.year, m.number, m.buyer, m.minted_at, m.changed_at, m.revoked_at, m.revoke_reason
  FROM memberships AS m
  JOIN membership_drops AS k ON k.drop_id = m.drop_id
 WHERE (@drop_id::bigint IS NULL OR m.drop_id = @drop_id)
   AND (@number::integer IS NULL OR m.number = @number)
   AND (@tier::text IS NULL OR k.tier = @tier)
   AND (@year::text IS NULL OR k.year = @year)
   AND (@revoked::boolean IS NULL OR (m.revoked_at IS NOT NULL) = @revoked)
   AND (@before::uuid IS NULL OR m.id < @before)
 ORDER BY m.id DESC
 LIMIT @count::bigint
OFFSET @skip::bigint;

-- name: list_memberships_of :many
-- The same of one buyer.
-- Index  memberships_by_buyer, membership_drops_pkey
SELECT m.id, m.drop_id, k.tier, k.year, m.number, m.buyer, m.minted_at, m.changed_at, m.revoked_at, m.revoke_reason
  FROM memberships AS m
  JOIN membership_drops AS k ON k.drop_id = m.drop_id
 WHERE m.buyer = @buyer
   AND (@drop_id::bigint IS NULL OR m.drop_id = @drop_id)
   AND (@number::integer IS NULL OR m.number = @number)
   AND (@tier::text IS NULL OR k.tier = @tier)
   AND (@year::text IS NULL OR k.year = @year)
   AND (@revoked::boolean IS NULL OR (m.revoked_at IS NOT NULL) = @revoked)
   AND (@before::uuid IS NULL OR m.id < @before)
 ORDER BY m.id DESC
 LIMIT @count::bigint
OFFSET @skip::bigint;

-- name: count_memberships :one
-- How many memberships those lists have in all.
SELECT count(*) AS items
  FROM memberships AS m
  JOIN membership_drops AS k ON k.drop_id = m.drop_id
 WHERE (@buyer::text IS NULL OR m.buyer = @buyer)
   AND (@drop_id::bigint IS NULL OR m.drop_id = @drop_id)
   AND (@number::integer IS NULL OR m.number = @number)
   AND (@tier::text IS NULL OR k.tier = @tier)
   AND (@year::text IS NULL OR k.year = @year)
   AND (@revoked::boolean IS NULL OR (m.revoked_at IS NOT NULL) = @revoked);

-- name: revoke_membership :maybe
-- End a membership; no row if it has ended. Its number stays sold.
-- Index  memberships_pkey
UPDATE memberships AS m
   SET revoked_at = clock_timestamp(), revoke_reason = @reason, changed_at = clock_timestamp()
 WHERE m.id = @id AND m.revoked_at IS NULL
RETURNING m.id;
