-- present_receipts: write down that these receipts are to be minted, and tell what is known of each.
--
-- A receipt is known by its transaction, or by the hash of its text. The first to present it makes its row, `pending`;
-- one that failed becomes `pending` again. Per receipt one word: pending · fulfilled · used (somebody else's) ·
-- other_transaction (this text came with another one before). `drop_id` is the one it was first presented for, or, if it
-- failed, this one.
--
-- Locks  receipt_hashes by hash, receipts by transaction (new rows), then receipts by id (those that failed)
-- Index  receipt_hashes_pkey, a_transaction_has_one_receipt, receipts_pkey
CREATE OR REPLACE FUNCTION present_receipts(
    p_ids uuid[], p_hashes bytea[], p_transactions text[], p_buyers text[], p_drops bigint[]
)
    RETURNS TABLE (word text, receipt uuid, drop_id bigint, attempts integer, membership uuid)
    LANGUAGE plpgsql
    SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off
    SET plan_cache_mode = force_generic_plan
AS $$
#variable_conflict use_column
DECLARE
    v_new integer;
BEGIN
    -- Whoever presents the same text waits here for the other's row; then whoever has the same transaction, below.
    INSERT INTO receipt_hashes (hash, receipt_id)
    SELECT DISTINCT ON (g.hash) g.hash, g.id
      FROM unnest(p_ids, p_hashes) AS g (id, hash)
     ORDER BY g.hash, g.id
        ON CONFLICT (hash) DO NOTHING;
    INSERT INTO receipts (id, drop_id, buyer, original_transaction_id)
    SELECT g.id, g.drop_id, g.buyer, g.transaction
      FROM unnest(p_ids, p_hashes, p_transactions, p_buyers, p_drops) AS g (id, hash, transaction, buyer, drop_id)
      JOIN receipt_hashes AS h ON h.hash = g.hash AND h.receipt_id = g.id
     ORDER BY g.transaction, g.id
        ON CONFLICT (original_transaction_id) DO NOTHING;
    GET DIAGNOSTICS v_new = ROW_COUNT;

    IF v_new < cardinality(p_ids) THEN
        -- Nobody changes what is somebody else's, nor what he is refused. A text's transaction may become known: first it
        -- is written down, so that of two such texts in this batch the other one is led to it as well. (OFFSET, and below
        -- a value: EXISTS and joins are planned, while receipts are few, as scans of all that failed, and plans are kept.)
        UPDATE receipts AS r
           SET original_transaction_id = g.transaction
          FROM (SELECT DISTINCT ON (u.transaction) o.id, u.transaction
                  FROM unnest(p_hashes, p_transactions, p_buyers) AS u (hash, transaction, buyer)
                  JOIN receipt_hashes AS h ON h.hash = u.hash
                 CROSS JOIN LATERAL (SELECT * FROM receipts AS k WHERE k.id = h.receipt_id OFFSET 0) AS o
                 WHERE u.transaction IS NOT NULL AND o.buyer = u.buyer AND o.original_transaction_id IS NULL
                 ORDER BY u.transaction, o.id) AS g
         WHERE r.id = g.id AND r.original_transaction_id IS NULL
           AND NOT EXISTS (SELECT FROM receipts AS o WHERE o.original_transaction_id = g.transaction);
        -- A new text of a known transaction, or a text that failed before anybody named its transaction.
        UPDATE receipt_hashes AS h
           SET receipt_id = r.id
          FROM unnest(p_ids, p_hashes, p_transactions, p_buyers) AS g (id, hash, transaction, buyer)
          JOIN receipts AS r ON r.original_transaction_id = g.transaction
         WHERE h.hash = g.hash AND h.receipt_id <> r.id
           AND (h.receipt_id = g.id
                OR (SELECT o.state = 'failed' AND o.original_transaction_id IS NULL AND o.buyer = g.buyer
                      FROM receipts AS o
                     WHERE o.id = h.receipt_id));

        WITH again AS MATERIALIZED (
            SELECT r.id, g.drop_id
              FROM (SELECT DISTINCT ON (o.id) o.id, u.drop_id
                      FROM unnest(p_hashes, p_transactions, p_buyers, p_drops) AS u (hash, transaction, buyer, drop_id)
                      JOIN receipt_hashes AS h ON h.hash = u.hash
                     CROSS JOIN LATERAL (SELECT * FROM receipts AS k WHERE k.id = h.receipt_id OFFSET 0) AS o
                     WHERE o.buyer = u.buyer AND (o.original_transaction_id = u.transaction) IS NOT FALSE
                     ORDER BY o.id) AS g
              JOIN receipts AS r ON r.id = g.id
             WHERE r.state = 'failed'
             ORDER BY r.id
               FOR UPDATE OF r
        )
        UPDATE receipts AS r
           SET state = 'pending', error = NULL, attempts = r.attempts + 1, drop_id = again.drop_id,
               changed_at = clock_timestamp()
          FROM again
         WHERE r.id = again.id AND r.state = 'failed';
    END IF;

    RETURN QUERY
      SELECT CASE WHEN r.buyer <> g.buyer THEN 'used'
                  WHEN r.original_transaction_id <> g.transaction THEN 'other_transaction'
                  WHEN r.state = 'failed' THEN 'pending'  -- since a moment ago: to mint it will tell
                  ELSE r.state END,
             r.id, r.drop_id, r.attempts, r.membership_id
        FROM unnest(p_hashes, p_transactions, p_buyers) WITH ORDINALITY AS g (hash, transaction, buyer, i)
        JOIN receipt_hashes AS h ON h.hash = g.hash
        JOIN receipts AS r ON r.id = h.receipt_id
       ORDER BY g.i;
END
$$;
