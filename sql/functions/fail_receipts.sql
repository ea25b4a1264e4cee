-- fail_receipts: give up pending receipts, of which from now on it is known that they took nothing.
--
-- Per receipt, in the order of the arrays, one word: failed · fulfilled (it was minted after all, or before) · pending
-- (presented again since: that attempt decides) · left (p_errors says SOLD_OUT, and there are numbers yet, or there
-- will be: nothing is final; the row stays pending). `error` is why it failed: it may have been before, for another reason.
--
-- Locks  receipts by id, so this waits for a mint that is under way
-- Index  receipts_pkey, stock_pkey
CREATE OR REPLACE FUNCTION fail_receipts(p_ids uuid[], p_attempts integer[], p_errors text[])
    RETURNS TABLE (word text, membership uuid, error text)
    LANGUAGE plpgsql
    SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off
    SET plan_cache_mode = force_generic_plan
AS $$
#variable_conflict use_column
BEGIN
    PERFORM FROM receipts AS r WHERE r.id = ANY (p_ids) ORDER BY r.id FOR UPDATE;
    UPDATE receipts AS r
       SET state = 'failed', error = w.error, changed_at = clock_timestamp()
      FROM unnest(p_ids, p_attempts, p_errors) AS w (id, attempt, error)
     WHERE r.id = w.id AND r.state = 'pending' AND r.attempts = w.attempt
       AND (w.error <> 'SOLD_OUT'
            OR NOT EXISTS (SELECT FROM stock AS s JOIN drops AS d ON d.id = s.drop_id
                            WHERE s.drop_id = r.drop_id AND s.sold + s.withdrawn < greatest(s.total, d.total_stock)));
    RETURN QUERY
      SELECT CASE WHEN r.state = 'pending' AND r.attempts = w.attempt THEN 'left' ELSE r.state END, r.membership_id, r.error
        FROM unnest(p_ids, p_attempts) WITH ORDINALITY AS w (id, attempt, i)
        JOIN receipts AS r ON r.id = w.id
       ORDER BY w.i;
END
$$;
