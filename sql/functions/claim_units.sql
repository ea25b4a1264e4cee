-- claim_units: give each request of a batch its units, or say why not.
--
-- One call, one transaction, one round trip. The fast path takes the batch as a whole and
-- compares row counts; anything unusual (a repeat, a limit, a cool-down, a closed window, too few
-- units) undoes it and the batch goes one by one through claim_units_singly.
--
-- Arrays run in parallel, sorted by request. `buyers_once`, sorted, and `units_once` are the batch
-- summed up by buyer. `owners` is what older workers send, and read by nobody. Named units are claimed by
-- claim_seats; asked for here, they go one by one as well, beside each other. With p_pick 'minted' the units are
-- those of a membership drop, which nobody can hold: they are sold at once (mint_units).
--
-- Measured and rejected, as CPU of this (batches of 128, of 5), the noise being 5 %: units and reservations
-- in one statement (1.02, 1.04); no window when everybody wants one unit (0.99, 1.00); ctid = ANY (ARRAY(…))
-- for the join (0.92, 1.02); settings of the database for those below (0.93, 1.01); no EXCEPTION (1.05,
-- 0.99); no CHECK on reservations, allowances and stock (0.99, 1.00).
--
-- Locks  allowances by buyer, units (SKIP LOCKED, so claims never wait for each other), which leave
--        the shelf, reservations by request, the stock row last.
-- Index  units_free_by_position, allowances_pkey, reservations_one_per_request
CREATE OR REPLACE FUNCTION claim_units(
    p_drop bigint, p_epoch bigint,
    p_requests uuid[], p_attempts bigint[], p_ids uuid[], p_buyers text[], p_quantities integer[],
    p_owners uuid[], p_buyers_once text[], p_units_once integer[], p_pick text DEFAULT 'any',
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
    v_wanted    integer;
    v_paused    text;
    v_starts_at timestamptz;
    v_ends_at   timestamptz;
    v_limit     integer;
    v_cools     boolean;
    v_promised  integer;
    v_head      bigint;
    v_position  bigint;
    v_rows      integer;
    v_state     reservation_state := 'active';
    v_ended_at  timestamptz;
BEGIN
    created_at := clock_timestamp();
    IF p_pick = 'minted' THEN
        v_state := 'purchased';
        v_ended_at := created_at;
    END IF;
    SELECT w.units, d.paused_reason, d.starts_at, d.ends_at, d.max_per_buyer, d.cooldown_factor > 0,
           d.total_stock, claim_units.created_at + make_interval(secs => d.hold_seconds), d.price_cents,
           d.currency, e.epoch, s.head, greatest(s.free - w.units, 0)
      INTO v_wanted, v_paused, v_starts_at, v_ends_at, v_limit, v_cools,
           v_promised, expires_at, price_cents,
           currency, epoch, v_head, available
      FROM (SELECT sum(q.quantity)::integer AS units FROM unnest(p_quantities) AS q (quantity)) AS w
     CROSS JOIN drops AS d
     CROSS JOIN engine_state AS e
      JOIN stock AS s ON s.drop_id = d.id
     WHERE d.id = p_drop AND d.prepared_at IS NOT NULL AND d.pick = p_pick
       AND e.timeline = substring(pg_walfile_name(pg_current_wal_lsn()) FROM 1 FOR 8);

    IF epoch IS DISTINCT FROM p_epoch OR v_paused IS NOT NULL
       OR created_at < v_starts_at OR v_ends_at <= greatest(created_at, v_starts_at)
    THEN
        RAISE SQLSTATE 'VR001';
    END IF;

    -- ON CONFLICT writes down that each new row is meant, before it is: 48 bytes of WAL a hold. A buyer
    -- who is new to both of two batches is a unique_violation in one of them. Each row is looked up
    -- by itself: to join by drop and buyer is planned, while buyers are few, as a scan of all of the
    -- drop for each, and that plan is kept (212 µs a hold at 5,000 buyers).
    MERGE INTO allowances AS a
    USING (SELECT w.buyer, w.used,
                  (SELECT k.ctid FROM allowances AS k WHERE k.drop_id = p_drop AND k.buyer = w.buyer) AS place
             FROM unnest(p_buyers_once, p_units_once) AS w (buyer, used)) AS b
       ON a.ctid = b.place
     WHEN MATCHED AND (v_limit IS NULL OR a.used + b.used <= v_limit)
                  AND (a.cools_until IS NULL OR NOT v_cools OR a.cools_until <= created_at) THEN
          UPDATE SET used = a.used + b.used
     WHEN NOT MATCHED AND (v_limit IS NULL OR b.used <= v_limit) THEN
          INSERT (drop_id, buyer, used) VALUES (p_drop, b.buyer, b.used);
    GET DIAGNOSTICS v_rows = ROW_COUNT;
    IF v_rows <> cardinality(p_buyers_once) THEN
        RAISE SQLSTATE 'VR001';
    END IF;

    -- Of a unit's 108 bytes of WAL one half is the lock that SKIP LOCKED steps over, the other its end.
    WITH next AS MATERIALIZED (
        SELECT units.ctid AS place
          FROM units
         WHERE units.drop_id = p_drop
           AND units.state = 'free'
           AND units.position >= v_head
         ORDER BY units.position
         LIMIT v_wanted
           FOR UPDATE SKIP LOCKED
    ), taken AS (
        DELETE FROM units
         USING next
         WHERE units.ctid = next.place
     RETURNING units.number, units.position
    )
    SELECT array_agg(taken.number), max(taken.position)
      INTO numbers, v_position
      FROM taken;
    IF cardinality(numbers) IS DISTINCT FROM v_wanted THEN
        RAISE SQLSTATE 'VR001';
    END IF;

    -- A request that is there already is a unique_violation, for the same 48 bytes.
    INSERT INTO reservations (id, request_id, attempt, drop_id, amount_cents, created_at, expires_at,
                              quantity, available, state, buyer, units, ended_at)
    SELECT r.id, r.request_id, r.attempt, p_drop, claim_units.price_cents * r.quantity,
           claim_units.created_at, claim_units.expires_at, r.quantity,
           claim_units.available, v_state, r.buyer,
           numbers[r.upto - r.quantity + 1 : r.upto], v_ended_at
      FROM (SELECT w.*, sum(w.quantity) OVER (ORDER BY w.i)::integer AS upto
              FROM unnest(p_requests, p_attempts, p_ids, p_buyers, p_quantities)
                   WITH ORDINALITY AS w (request_id, attempt, id, buyer, quantity, i)) AS r;

    WITH counted AS (
        UPDATE stock
           SET version = stock.version + 1,
               free = stock.free - v_wanted,
               held = stock.held + CASE WHEN v_ended_at IS NULL THEN v_wanted ELSE 0 END,
               sold = stock.sold + CASE WHEN v_ended_at IS NULL THEN 0 ELSE v_wanted END,
               head = greatest(stock.head, v_position),
               changed_at = claim_units.created_at
         WHERE stock.drop_id = p_drop
     RETURNING stock.version, stock.free, stock.held, stock.sold, stock.withdrawn, stock.total
    ), told AS (
        INSERT INTO outbox (drop_id, epoch, version, kind, subjects)
        SELECT p_drop, claim_units.epoch, counted.version,
               CASE WHEN v_ended_at IS NULL THEN 'reserved' ELSE 'purchased' END, p_ids
          FROM counted
    )
    SELECT counted.version, counted.free, counted.held, counted.sold, counted.withdrawn,
           greatest(counted.total, v_promised)  -- more may have been promised than is there yet
      INTO version, free, held, sold, withdrawn, total
      FROM counted;
EXCEPTION
    WHEN SQLSTATE 'VR001' OR unique_violation THEN
        SELECT * INTO words, stored_attempts, numbers, epoch, version, free, held, sold, withdrawn, total,
                      created_at, expires_at, available, price_cents, currency
          FROM claim_units_singly(p_drop, p_epoch, p_requests, p_attempts, p_ids, p_buyers, p_quantities, NULL, p_pick);
END
$$;
