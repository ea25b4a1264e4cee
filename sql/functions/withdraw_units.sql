-- withdraw_units: take free units off sale, from the queue's end; how many could be had.
--
-- p_count null stands for all that are free. Held and sold units are never touched. The caller
-- decides whether fewer than it asked for will do, and undoes this if not.
--
-- The first look waits for claims that have free units in their hands, from the end of the queue
-- where claims come last. What came back since is found by the second look, under the stock
-- row; that one must not wait, since whoever holds those units waits for the stock row.
--
-- Locks  free units (waiting, then SKIP LOCKED), then the stock row.
-- Index  units_free_by_position
CREATE OR REPLACE FUNCTION withdraw_units(
    p_drop bigint, p_count integer,
    OUT taken integer, OUT free integer, OUT held integer
)
    LANGUAGE plpgsql
    SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off
    SET plan_cache_mode = force_generic_plan
AS $$
DECLARE
    v_more  integer;
    v_epoch bigint;
    v_version bigint;
BEGIN
    WITH last AS MATERIALIZED (
        SELECT units.ctid AS place
          FROM units
         WHERE units.drop_id = p_drop
           AND units.state = 'free'
         ORDER BY units.position DESC
         LIMIT p_count
           FOR UPDATE
    )
    UPDATE units SET state = 'withdrawn' FROM last WHERE units.ctid = last.place;
    GET DIAGNOSTICS taken = ROW_COUNT;

    PERFORM FROM stock WHERE stock.drop_id = p_drop FOR UPDATE;
    IF p_count IS NULL OR taken < p_count THEN
        WITH last AS MATERIALIZED (
            SELECT units.ctid AS place
              FROM units
             WHERE units.drop_id = p_drop
               AND units.state = 'free'
             ORDER BY units.position DESC
             LIMIT p_count - taken
               FOR UPDATE SKIP LOCKED
        )
        UPDATE units SET state = 'withdrawn' FROM last WHERE units.ctid = last.place;
        GET DIAGNOSTICS v_more = ROW_COUNT;
        taken := taken + v_more;
    END IF;

    IF taken = 0 THEN
        SELECT stock.free, stock.held INTO free, held FROM stock WHERE stock.drop_id = p_drop;
        RETURN;
    END IF;
    UPDATE stock
       SET version = stock.version + 1,
           free = stock.free - taken,
           withdrawn = stock.withdrawn + taken,
           changed_at = clock_timestamp()
     WHERE stock.drop_id = p_drop
 RETURNING stock.version, stock.free, stock.held
      INTO v_version, free, held;
    SELECT engine_state.epoch INTO v_epoch FROM engine_state;
    INSERT INTO outbox (drop_id, epoch, version, kind, subjects)
    VALUES (p_drop, v_epoch, v_version, 'withdrawn', '{}');
END
$$;
