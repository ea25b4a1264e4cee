-- claim_units_singly: the batch of claim_units, one request at a time.
--
-- Per request one word: held · repeated (it has its hold already) · blocked (a tombstone of this
-- or a later attempt, in stored_attempts) · fenced (another epoch) · not_found · preparing ·
-- admin or audit (paused) · not_started · ended · too_many (for one order) · limit · cooling (let holds go, and must
-- wait) · sold_out · contended (units are free, but others have them locked) · taken (somebody has a unit it picked) ·
-- scattered (enough are free, but not beside each other) · minted (only receipts get such units:
-- with p_pick 'minted', sold at once). `numbers` lists the units of the held ones in order, `names` what
-- they are called.
--
-- Of a named drop p_picks says what each request picked, as in claim_seats; without it, or where it says zeros, it gets
-- the first free units that are beside each other (find_run).
--
-- A refusal leaves no trace. "sold_out" and "scattered" are said only after the stock row was locked and read; "taken" of
-- what was not on the shelf, locked or not.
--
-- Locks  as claim_units: allowances by buyer, then by request: its row, units (SKIP LOCKED), picks;
--        the stock row last.
-- Index  units_free_by_position, units_pkey, reservations_one_per_request, a_named_unit_has_one_live_owner
CREATE OR REPLACE FUNCTION claim_units_singly(
    p_drop bigint, p_epoch bigint,
    p_requests uuid[], p_attempts bigint[], p_ids uuid[], p_buyers text[], p_quantities integer[],
    p_picks integer[] DEFAULT NULL, p_pick text DEFAULT 'any',
    OUT words text[], OUT stored_attempts bigint[], OUT numbers integer[],
    OUT epoch bigint, OUT version bigint,
    OUT free integer, OUT held integer, OUT sold integer, OUT withdrawn integer, OUT total integer,
    OUT created_at timestamptz, OUT expires_at timestamptz, OUT available integer,
    OUT price_cents bigint, OUT currency text, OUT names text[]
)
    LANGUAGE plpgsql
    SET enable_seqscan = off SET plan_cache_mode = force_generic_plan
AS $$
DECLARE
    v_drop     drops%ROWTYPE;
    v_found    reservations%ROWTYPE;
    v_closed   text;
    v_mine     integer[];
    v_last     bigint := 0;
    v_first    bigint;
    v_taken    uuid[] := '{}';
    v_units    integer := 0;
    v_fresh    boolean;
    v_quantity integer;
    v_word     text;
    v_named    boolean;
    v_locked   integer;
    v_contended boolean;
    v_run      integer;
    v_picks    integer[];
    v_upto     integer := 0;
    v_sold     boolean := p_pick = 'minted';
    i          integer;
BEGIN
    words := array_fill('held'::text, ARRAY[cardinality(p_requests)]);
    stored_attempts := array_fill(0::bigint, ARRAY[cardinality(p_requests)]);
    numbers := '{}';
    created_at := clock_timestamp();
    SELECT * INTO v_drop FROM drops WHERE drops.id = p_drop;
    IF NOT FOUND THEN
        words := array_fill('not_found'::text, ARRAY[cardinality(p_requests)]);
        RETURN;
    END IF;
    v_named := v_drop.pick = 'named';
    expires_at := created_at + make_interval(secs => v_drop.hold_seconds);
    price_cents := v_drop.price_cents;
    currency := v_drop.currency;
    SELECT stock.free INTO available FROM stock WHERE stock.drop_id = p_drop;

    SELECT engine_state.epoch INTO epoch
      FROM engine_state
     WHERE engine_state.timeline = substring(pg_walfile_name(pg_current_wal_lsn()) FROM 1 FOR 8);
    v_closed := CASE
        WHEN epoch IS DISTINCT FROM p_epoch THEN 'fenced'
        WHEN v_drop.pick = 'minted' AND p_pick <> 'minted' THEN 'minted'
        WHEN v_drop.prepared_at IS NULL THEN 'preparing'
        WHEN v_drop.paused_reason IS NOT NULL THEN v_drop.paused_reason
        WHEN v_drop.ends_at <= greatest(created_at, v_drop.starts_at) THEN 'ended'
        WHEN created_at < v_drop.starts_at THEN 'not_started'
    END;

    -- All buyers' rows first and in order, so that two batches cannot wait for each other.
    INSERT INTO allowances AS a (drop_id, buyer, used)
    SELECT p_drop, b.buyer, 0
      FROM (SELECT DISTINCT unnest(p_buyers) COLLATE "C" AS buyer) AS b
     ORDER BY b.buyer
        ON CONFLICT (drop_id, buyer) DO UPDATE
       SET used = a.used;

    FOR i IN 1 .. cardinality(p_requests) LOOP
        v_quantity := p_quantities[i];
        v_picks := p_picks[v_upto + 1 : v_upto + v_quantity];
        v_upto := v_upto + v_quantity;
        -- The look-up comes before every refusal: a fenced or late copy of a request that has
        -- its hold must hear of the hold.
        SELECT * INTO v_found FROM reservations WHERE reservations.request_id = p_requests[i];
        v_word := CASE
            WHEN v_found.state <> 'aborted' THEN 'repeated'
            WHEN v_found.attempt >= p_attempts[i] THEN 'blocked'
            WHEN v_closed IS NOT NULL THEN v_closed
            WHEN v_quantity > v_drop.max_per_order THEN 'too_many'
            ELSE 'held'
        END;
        IF v_word <> 'held' THEN
            words[i] := v_word;
            stored_attempts[i] := coalesce(v_found.attempt, 0);
            CONTINUE;
        END IF;

        -- Take the request's own row: from here on nobody else decides about this request.
        v_fresh := NULL;
        INSERT INTO reservations AS r (id, request_id, attempt, drop_id, amount_cents, created_at,
                                       expires_at, quantity, available, state, buyer, units)
        VALUES (p_ids[i], p_requests[i], p_attempts[i], p_drop, v_drop.price_cents * v_quantity,
                claim_units_singly.created_at, claim_units_singly.expires_at, v_quantity,
                claim_units_singly.available, 'aborted', p_buyers[i], '{}')
            ON CONFLICT (request_id) DO UPDATE
           SET id = excluded.id, attempt = excluded.attempt, drop_id = excluded.drop_id,
               amount_cents = excluded.amount_cents, created_at = excluded.created_at,
               expires_at = excluded.expires_at, quantity = excluded.quantity, buyer = excluded.buyer,
               available = excluded.available
         WHERE r.state = 'aborted' AND r.attempt < excluded.attempt
     RETURNING (r.xmax = 0) INTO v_fresh;
        IF v_fresh IS NULL THEN
            -- A copy of this request was decided while we waited for its row.
            SELECT * INTO v_found FROM reservations WHERE reservations.request_id = p_requests[i];
            words[i] := CASE WHEN v_found.state = 'aborted' THEN 'blocked' ELSE 'repeated' END;
            stored_attempts[i] := v_found.attempt;
            CONTINUE;
        END IF;

        UPDATE allowances
           SET used = used + v_quantity
         WHERE allowances.drop_id = p_drop
           AND allowances.buyer = p_buyers[i]
           AND (v_drop.max_per_buyer IS NULL OR used + v_quantity <= v_drop.max_per_buyer)
           AND (cools_until IS NULL OR v_drop.cooldown_factor = 0
                OR cools_until <= claim_units_singly.created_at);
        IF NOT FOUND THEN
            -- Who is at the limit hears of that: to wait would not help.
            words[i] := (SELECT CASE WHEN a.used + v_quantity > v_drop.max_per_buyer THEN 'limit' ELSE 'cooling' END
                           FROM allowances AS a
                          WHERE a.drop_id = p_drop AND a.buyer = p_buyers[i]);
        ELSIF v_named AND v_picks[1] > 0 THEN
            v_mine := v_picks;
            PERFORM FROM units
              WHERE units.drop_id = p_drop AND units.number = ANY (v_picks) AND units.state::text = 'free'
                FOR UPDATE SKIP LOCKED;
            GET DIAGNOSTICS v_locked = ROW_COUNT;
            IF v_locked < v_quantity THEN
                words[i] := CASE WHEN (SELECT count(*) FROM units
                                        WHERE units.drop_id = p_drop AND units.number = ANY (v_picks)
                                          AND units.state::text = 'free') < v_quantity
                                 THEN 'taken' ELSE 'contended' END;
            END IF;
        ELSIF v_named THEN
            SELECT run.numbers, run.contended INTO v_mine, v_contended FROM find_run(p_drop, v_quantity) AS run;
            IF v_mine IS NULL THEN
                words[i] := CASE WHEN v_contended THEN 'contended' ELSE 'scattered' END;
            END IF;
        ELSE
            SELECT array_agg(next.number ORDER BY next.position), min(next.position), max(next.position)
              INTO v_mine, v_first, v_last
              FROM (SELECT units.number, units.position
                      FROM units
                     WHERE units.drop_id = p_drop
                       AND units.state = 'free'
                       AND units.position >= v_last
                     ORDER BY units.position
                     LIMIT v_quantity
                       FOR UPDATE SKIP LOCKED) AS next;
            IF coalesce(cardinality(v_mine), 0) < v_quantity THEN
                -- Too few for this one; a smaller request behind it may still be served.
                words[i] := 'short';
                v_last := coalesce(v_first, 0);
            END IF;
        END IF;

        IF words[i] <> 'held' THEN
            UPDATE allowances
               SET used = used - v_quantity
             WHERE allowances.drop_id = p_drop AND allowances.buyer = p_buyers[i]
               AND words[i] NOT IN ('limit', 'cooling');
            DELETE FROM reservations WHERE reservations.request_id = p_requests[i] AND v_fresh;
            CONTINUE;
        END IF;
        DELETE FROM units WHERE units.drop_id = p_drop AND units.number = ANY (v_mine);
        UPDATE reservations
           SET state = CASE WHEN v_sold THEN 'purchased' ELSE 'active' END::reservation_state, units = v_mine,
               ended_at = CASE WHEN v_sold THEN claim_units_singly.created_at END
         WHERE reservations.request_id = p_requests[i];
        IF v_named THEN
            INSERT INTO picks (drop_id, number, reservation_id)
            SELECT p_drop, unnest(v_mine), p_ids[i];
        END IF;
        numbers := numbers || v_mine;
        v_units := v_units + v_quantity;
        v_taken := v_taken || p_ids[i];
    END LOOP;

    DELETE FROM allowances
     WHERE allowances.drop_id = p_drop AND allowances.buyer = ANY (p_buyers) AND allowances.used = 0
       AND allowances.cools_until IS NULL;

    IF v_units = 0 THEN
        SELECT stock.version, stock.free, stock.held, stock.sold, stock.withdrawn, stock.total
          INTO version, free, held, sold, withdrawn, total
          FROM stock
         WHERE stock.drop_id = p_drop
           FOR UPDATE;
    ELSE
        -- The scan above began at the very front, which finds what a rolled-back claim left
        -- behind the head; the next fast path starts there too.
        UPDATE stock
           SET version = stock.version + 1,
               free = stock.free - v_units,
               held = stock.held + CASE WHEN v_sold THEN 0 ELSE v_units END,
               sold = stock.sold + CASE WHEN v_sold THEN v_units ELSE 0 END,
               head = least(stock.head, v_last),
               changed_at = claim_units_singly.created_at
         WHERE stock.drop_id = p_drop
     RETURNING stock.version, stock.free, stock.held, stock.sold, stock.withdrawn, stock.total
          INTO version, free, held, sold, withdrawn, total;
        INSERT INTO outbox (drop_id, epoch, version, kind, subjects)
        VALUES (p_drop, claim_units_singly.epoch, claim_units_singly.version,
                CASE WHEN v_sold THEN 'purchased' ELSE 'reserved' END, v_taken);
    END IF;

    total := greatest(total, v_drop.total_stock);  -- more may have been promised than is there yet
    FOR i IN 1 .. cardinality(p_requests) LOOP
        IF words[i] = 'short' THEN
            words[i] := CASE WHEN free >= p_quantities[i] THEN 'contended' ELSE 'sold_out' END;
        ELSIF words[i] = 'scattered' THEN
            -- Nobody moves units any more: a run that came back since, or is in others' hands, is seen.
            v_run := coalesce(v_run, longest_run(p_drop));
            words[i] := CASE WHEN free < p_quantities[i] THEN 'sold_out'
                             WHEN v_run >= p_quantities[i] THEN 'contended'
                             ELSE 'scattered' END;
        END IF;
    END LOOP;
    names := names_of(v_drop, numbers);
END
$$;
