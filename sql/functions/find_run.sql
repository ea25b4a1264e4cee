-- find_run: the first units of a named drop that are free and beside each other, locked; no numbers if
-- there are none. `contended`: one was seen that others have in their hands.
--
-- Position is number there, so the queue's index tells neighbours, and reading ends with the first run.
--
-- Locks  units (SKIP LOCKED).
-- Index  units_free_by_position, units_pkey
CREATE OR REPLACE FUNCTION find_run(
    p_drop bigint, p_quantity integer, OUT numbers integer[], OUT contended boolean
)
    LANGUAGE plpgsql
    SET enable_seqscan = off SET enable_bitmapscan = off SET plan_cache_mode = force_generic_plan
AS $$
DECLARE
    v_first bigint := 0;
BEGIN
    contended := false;
    LOOP
        SELECT run.first
          INTO v_first
          FROM (SELECT units.position AS first,
                       lead(units.position, p_quantity - 1) OVER (ORDER BY units.position) AS last
                  FROM units
                 WHERE units.drop_id = p_drop
                   AND units.state = 'free'
                   AND units.position > v_first) AS run
         WHERE run.last = run.first + p_quantity - 1
         LIMIT 1;
        EXIT WHEN NOT FOUND;
        numbers := ARRAY(SELECT units.number
                           FROM units
                          WHERE units.drop_id = p_drop
                            AND units.number BETWEEN v_first AND v_first + p_quantity - 1
                            AND units.state::text = 'free'
                            FOR UPDATE SKIP LOCKED);
        IF cardinality(numbers) = p_quantity THEN
            numbers := ARRAY(SELECT generate_series(v_first, v_first + p_quantity - 1));
            RETURN;
        END IF;
        contended := true;
        -- Behind the last one that others have: no run before that is left.
        v_first := (SELECT max(n.number) FROM generate_series(v_first, v_first + p_quantity - 1) AS n (number)
                     WHERE n.number <> ALL (numbers));
    END LOOP;
    numbers := NULL;
END
$$;
