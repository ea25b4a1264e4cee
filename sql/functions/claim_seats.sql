-- claim_seats: claim_units for a drop whose units are named: these very units, or the best there are.
--
-- p_picks is flat and runs along the quantities: of each request the numbers it picked, ascending, or
-- as many zeros where it picked none, for the first units that are beside each other. Such a batch and
-- anything unusual (a repeat, a limit, a unit that somebody has) goes through claim_units_singly. `names`
-- runs along `numbers`.
--
-- As claim_units else, but that it says who has a unit now, in `picks`.
--
-- Locks  allowances by buyer, units (SKIP LOCKED, so claims never wait for each other), which leave
--        the shelf, reservations by request, picks, the stock row last.
-- Index  units_pkey, allowances_pkey, reservations_one_per_request, a_named_unit_has_one_live_owner
CREATE OR REPLACE FUNCTION claim_seats(
    p_drop bigint, p_epoch bigint,
    p_requests uuid[], p_attempts bigint[], p_ids uuid[], p_buyers text[], p_quantities integer[],
    p_picks integer[], p_buyers_once text[], p_units_once integer[],
    OUT words text[], OUT stored_attempts bigint[], OUT numbers integer[],
    OUT epoch bigint, OUT version bigint,
    OUT free integer, OUT held integer, OUT sold integer, OUT withdrawn integer, OUT total integer,
    OUT created_at timestamptz, OUT expires_at timestamptz, OUT available integer,
    OUT price_cents bigint, OUT currency text, OUT names text[]
)
    LANGUAGE plpgsql
    SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off
    SET plan_cache_mode = force_generic_plan
AS $$
DECLARE
    v_wanted    integer := cardinality(p_picks);
    v_paused    text;
    v_starts_at timestamptz;
    v_ends_at   timestamptz;
    v_limit     integer;
    v_cools     boolean;
    v_promised  integer;
    v_rows      integer;
BEGIN
    created_at := clock_timestamp();
    SELECT d.paused_reason, d.starts_at, d.ends_at, d.max_per_buyer, d.cooldown_factor > 0,
           d.total_stock, claim_seats.created_at + make_interval(secs => d.hold_seconds), d.price_cents,
           d.currency, e.epoch, greatest(s.free - v_wanted, 0)
      INTO v_paused, v_starts_at, v_ends_at, v_limit, v_cools,
           v_promised, expires_at, price_cents,
           currency, epoch, available
      FROM drops AS d
     CROSS JOIN engine_state AS e
      JOIN stock AS s ON s.drop_id = d.id
     WHERE d.id = p_drop AND d.prepared_at IS NOT NULL AND d.pick = 'named'
       AND e.timeline = substring(pg_walfile_name(pg_current_wal_lsn()) FROM 1 FOR 8);

    IF epoch IS DISTINCT FROM p_epoch OR v_paused IS NOT NULL OR 0 = ANY (p_picks)
       OR created_at < v_starts_at OR v_ends_at <= greatest(created_at, v_starts_at)
    THEN
        RAISE SQLSTATE 'VR001';
    END IF;

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

    -- The state as text: else the queue's index would do, and all of the shelf might be read for a few.
    WITH wanted AS MATERIALIZED (
        SELECT units.ctid AS place
          FROM units
         WHERE units.drop_id = p_drop
           AND units.number = ANY (p_picks)
           AND units.state::text = 'free'
           FOR UPDATE SKIP LOCKED
    )
    DELETE FROM units USING wanted WHERE units.ctid = wanted.place;
    GET DIAGNOSTICS v_rows = ROW_COUNT;
    IF v_rows <> v_wanted THEN
        RAISE SQLSTATE 'VR001';
    END IF;
    numbers := p_picks;

    WITH made AS (
        INSERT INTO reservations (id, request_id, attempt, drop_id, amount_cents, created_at, expires_at,
                                  quantity, available, state, buyer, units)
        SELECT r.id, r.request_id, r.attempt, p_drop, claim_seats.price_cents * r.quantity,
               claim_seats.created_at, claim_seats.expires_at, r.quantity,
               claim_seats.available, 'active', r.buyer,
               p_picks[r.upto - r.quantity + 1 : r.upto]
          FROM (SELECT w.*, sum(w.quantity) OVER (ORDER BY w.i)::integer AS upto
                  FROM unnest(p_requests, p_attempts, p_ids, p_buyers, p_quantities)
                       WITH ORDINALITY AS w (request_id, attempt, id, buyer, quantity, i)) AS r
     RETURNING reservations.id, reservations.units
    )
    INSERT INTO picks (drop_id, number, reservation_id)
    SELECT p_drop, unnest(made.units), made.id FROM made;

    WITH counted AS (
        UPDATE stock
           SET version = stock.version + 1,
               free = stock.free - v_wanted,
               held = stock.held + v_wanted,
               changed_at = claim_seats.created_at
         WHERE stock.drop_id = p_drop
     RETURNING stock.version, stock.free, stock.held, stock.sold, stock.withdrawn, stock.total
    ), told AS (
        INSERT INTO outbox (drop_id, epoch, version, kind, subjects)
        SELECT p_drop, claim_seats.epoch, counted.version, 'reserved', p_ids FROM counted
    )
    SELECT counted.version, counted.free, counted.held, counted.sold, counted.withdrawn,
           greatest(counted.total, v_promised), names_of(d, p_picks)
      INTO version, free, held, sold, withdrawn, total, names
      FROM counted CROSS JOIN drops AS d
     WHERE d.id = p_drop;
EXCEPTION
    WHEN SQLSTATE 'VR001' OR unique_violation THEN
        SELECT * INTO words, stored_attempts, numbers, epoch, version, free, held, sold, withdrawn, total,
                      created_at, expires_at, available, price_cents, currency, names
          FROM claim_units_singly(p_drop, p_epoch, p_requests, p_attempts, p_ids, p_buyers, p_quantities, p_picks);
END
$$;
