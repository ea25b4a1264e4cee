-- tell_terms: a drop was created, or its terms are others; called by triggers of `drops`.
--
-- Locks  nothing.
-- Index  stock_pkey
CREATE OR REPLACE FUNCTION tell_terms()
    RETURNS trigger
    LANGUAGE plpgsql
AS $$
BEGIN
    INSERT INTO outbox (drop_id, epoch, version, kind, subjects)
    SELECT new.id, e.epoch, coalesce((SELECT s.version FROM stock AS s WHERE s.drop_id = new.id), 0),
           CASE WHEN tg_op = 'INSERT' THEN 'created' ELSE 'changed' END, '{}'
      FROM engine_state AS e;
    RETURN NULL;
END
$$;
