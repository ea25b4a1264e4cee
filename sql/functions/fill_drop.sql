-- fill_drop: put the next slice of a drop's units on the shelf, shuffled by a CSPRNG; named ones in the
-- order of their numbers, which are their names where they were given none.
--
-- Returns how many units are still missing. The slice that first completes the shelf changes the
-- terms, which opens the drop; from then on more units may come in mid-sale.
--
-- Locks  an advisory lock of the drop's filling, so that two fillers take turns and nobody who
--        sells waits for the insert; then the stock row, then the drop.
-- Index  stock_pkey, unit_names_pkey
CREATE OR REPLACE FUNCTION fill_drop(p_drop bigint, p_slice integer)
    RETURNS integer
    LANGUAGE plpgsql
AS $$
DECLARE
    v_have   integer;
    v_all    integer;
    v_upto   integer;
    v_named  boolean;
BEGIN
    PERFORM pg_advisory_xact_lock(hashtextextended('fill_drop', p_drop));
    SELECT stock.total INTO v_have FROM stock WHERE stock.drop_id = p_drop;
    SELECT drops.total_stock, drops.pick = 'named' INTO v_all, v_named FROM drops WHERE drops.id = p_drop;
    v_upto := least(v_have + p_slice, v_all);
    IF v_upto > v_have THEN
        -- 48 random bits of a version 4 UUID: nobody can tell which number comes next. Laid down in
        -- that order, neighbours in the queue share a page: a claim touches two, not a hundred.
        INSERT INTO units (drop_id, number, position)
        SELECT p_drop, u.number, u.position
          FROM (SELECT n AS number, CASE WHEN v_named THEN n ELSE
                       ('x' || translate(left(gen_random_uuid()::text, 13), '-', ''))::bit(48)::bigint END AS position
                  FROM generate_series(v_have + 1, v_upto) AS n) AS u
         ORDER BY u.position;
        IF v_named THEN
            INSERT INTO unit_names (drop_id, number, name)
            SELECT p_drop, n, n::text FROM generate_series(v_have + 1, v_upto) AS n
                ON CONFLICT (drop_id, number) DO NOTHING;
        END IF;

        UPDATE stock
           SET version = stock.version + 1,
               free = stock.free + v_upto - v_have,
               total = v_upto,
               head = 0,
               changed_at = clock_timestamp()
         WHERE stock.drop_id = p_drop;
    END IF;
    UPDATE drops
       SET terms_version = drops.terms_version + 1,
           prepared_at = coalesce(drops.prepared_at, clock_timestamp())
     WHERE drops.id = p_drop AND v_upto = v_all AND (v_upto > v_have OR drops.prepared_at IS NULL);
    RETURN greatest(v_all - v_upto, 0);
END
$$;
