-- claim_units: give each request of a batch its units, or say why not.
--
-- One call, one transaction, one round trip. The fast path takes the batch as a whole and
-- compares row counts; anything unusual (a repeat, a limit, a cool-down, a closed window, too few
-- units) undoes it and the batch goes one by one through claim_units_singly.
--
-- Arrays run in parallel, sorted by request. `owners` names the reservation of every single
-- unit; `buyers_once`, sorted, and `units_once` are the batch summed up by buyer.
--
-- Locks  allowances by buyer, units (SKIP LOCKED, so claims never wait for each other),
--        reservations by request, the stock row last.
-- Index  units_free_by_position, reservations_one_per_request
CREATE OR REPLACE FUNCTION claim_units(
    p_drop bigint, p_epoch bigint,
    p_requests uuid[], p_attempts bigint[], p_ids uuid[], p_buyers text[], p_quantities integer[],
    p_owners uuid[], p_buyers_once text[], p_units_once integer[],
    OUT words text[], OUT stored_attempts bigint[], OUT numbers integer[],
    OUT epoch bigint, OUT version bigint,
    OUT free integer, OUT held integer, OUT sold integer, OUT withdrawn integer, OUT total integer,
    OUT created_at timestamptz, OUT expires_at timestamptz, OUT available integer,
    OUT price_cents bigint, OUT currency text
)
    LANGUAGE plpgsql
    -- The arrays hide their lengths from the planner: a seq scan or a hash of all units must
    -- not be an option, however old the statistics.
    SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off
    SET plan_cache_mode = force_generic_plan
AS $$
DECLARE
    v_drop      drops%ROWTYPE;
    v_head      bigint;
    v_wanted    integer := cardinality(p_owners);
    v_position  bigint;
    v_rows      integer;
BEGIN
    SELECT * INTO v_drop FROM drops WHERE drops.id = p_drop;
    SELECT engine_state.epoch INTO epoch
      FROM engine_state
     WHERE engine_state.timeline = substring(pg_walfile_name(pg_current_wal_lsn()) FROM 1 FOR 8);
    SELECT stock.head, stock.free - v_wanted INTO v_head, available
      FROM stock
     WHERE stock.drop_id = p_drop AND v_drop.prepared_at IS NOT NULL;
    created_at := clock_timestamp();

    IF v_head IS NULL OR epoch IS DISTINCT FROM p_epoch OR v_drop.paused_reason IS NOT NULL
       OR created_at < v_drop.starts_at OR v_drop.ends_at <= greatest(created_at, v_drop.starts_at)
    THEN
        RAISE SQLSTATE 'VR001';
    END IF;

    INSERT INTO allowances AS a (drop_id, buyer, used)
    SELECT p_drop, b.buyer, b.used
      FROM unnest(p_buyers_once, p_units_once) AS b (buyer, used)
     WHERE v_drop.max_per_buyer IS NULL OR b.used <= v_drop.max_per_buyer
        ON CONFLICT (drop_id, buyer) DO UPDATE
       SET used = a.used + excluded.used
     WHERE (v_drop.max_per_buyer IS NULL OR a.used + excluded.used <= v_drop.max_per_buyer)
       AND (a.cools_until IS NULL OR v_drop.cooldown_factor = 0 OR a.cools_until <= created_at);
    GET DIAGNOSTICS v_rows = ROW_COUNT;
    IF v_rows <> cardinality(p_buyers_once) THEN
        RAISE SQLSTATE 'VR001';
    END IF;

    WITH next AS MATERIALIZED (
        SELECT units.ctid AS place, units.position
          FROM units
         WHERE units.drop_id = p_drop
           AND units.state = 'free'
           AND units.position >= v_head
         ORDER BY units.position
         LIMIT v_wanted
           FOR UPDATE SKIP LOCKED
    ), queued AS (
        SELECT next.place, next.position, row_number() OVER (ORDER BY next.position) AS i
          FROM next
    ), taken AS (
        UPDATE units
           SET state = 'held', reservation_id = p_owners[queued.i]
          FROM queued
         WHERE units.ctid = queued.place
     RETURNING units.number, queued.i, queued.position
    )
    SELECT array_agg(taken.number ORDER BY taken.i), max(taken.position)
      INTO numbers, v_position
      FROM taken;
    IF cardinality(numbers) IS DISTINCT FROM v_wanted THEN
        RAISE SQLSTATE 'VR001';
    END IF;

    expires_at := created_at + make_interval(secs => v_drop.hold_seconds);
    INSERT INTO reservations (id, request_id, attempt, drop_id, amount_cents, created_at, expires_at,
                              quantity, available, state, buyer, units)
    SELECT r.id, r.request_id, r.attempt, p_drop, v_drop.price_cents * r.quantity,
           claim_units.created_at, claim_units.expires_at, r.quantity,
           greatest(claim_units.available, 0), 'active', r.buyer,
           numbers[r.upto - r.quantity + 1 : r.upto]
      FROM (SELECT w.*, sum(w.quantity) OVER (ORDER BY w.i)::integer AS upto
              FROM unnest(p_requests, p_attempts, p_ids, p_buyers, p_quantities)
                   WITH ORDINALITY AS w (request_id, attempt, id, buyer, quantity, i)) AS r;
    -- A request that is there already is a unique_violation: ON CONFLICT would write every row down
    -- twice, to say that it meant it (48 bytes of WAL a hold).

    UPDATE stock
       SET version = stock.version + 1,
           free = stock.free - v_wanted,
           held = stock.held + v_wanted,
           head = greatest(stock.head, v_position),
           changed_at = claim_units.created_at
     WHERE stock.drop_id = p_drop
 RETURNING stock.version, stock.free, stock.held, stock.sold, stock.withdrawn, stock.total
      INTO version, free, held, sold, withdrawn, total;

    INSERT INTO outbox (drop_id, epoch, version, kind, subjects)
    VALUES (p_drop, claim_units.epoch, claim_units.version, 'reserved', p_ids);

    available := greatest(available, 0);
    total := greatest(total, v_drop.total_stock);  -- more may have been promised than is there yet
    price_cents := v_drop.price_cents;
    currency := v_drop.currency;
EXCEPTION
    WHEN SQLSTATE 'VR001' OR unique_violation THEN
        SELECT * INTO words, stored_attempts, numbers, epoch, version, free, held, sold, withdrawn, total,
                      created_at, expires_at, available, price_cents, currency
          FROM claim_units_singly(p_drop, p_epoch, p_requests, p_attempts, p_ids, p_buyers, p_quantities);
END
$$;
