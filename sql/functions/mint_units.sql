-- mint_units: claim_units for receipts: each gets its unit, sold at once, and its membership; or why not.
--
-- One call, one transaction. A receipt is its own fence: only one that is pending is claimed for, and its row is locked
-- from here on, so whoever gave it up first (fail_receipts, give_up_receipts) can say "nothing was taken". The word
-- for one that was given up is `given_up`; all other words are claim_units'. The deadline is no later than the beginning:
-- nothing is held.
--
-- Locks  receipts by id, then as claim_units
-- Index  receipts_pkey
CREATE OR REPLACE FUNCTION mint_units(
    p_drop bigint, p_epoch bigint,
    p_requests uuid[], p_attempts bigint[], p_ids uuid[], p_buyers text[], p_quantities integer[],
    p_buyers_once text[], p_units_once integer[],
    OUT words text[], OUT stored_attempts bigint[], OUT numbers integer[],
    OUT epoch bigint, OUT version bigint,
    OUT free integer, OUT held integer, OUT sold integer, OUT withdrawn integer, OUT total integer,
    OUT created_at timestamptz, OUT expires_at timestamptz, OUT available integer,
    OUT price_cents bigint, OUT currency text
)
    LANGUAGE plpgsql
    SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off
    SET plan_cache_mode = force_generic_plan
AS $$
DECLARE
    v_failed   uuid[];
    v_held     uuid[];
    v_receipts uuid[];
    v_buyers   text[];
    v_rows     integer;
    v_told     text[];
    v_stored   bigint[];
BEGIN
    PERFORM FROM receipts AS r WHERE r.id = ANY (p_requests) ORDER BY r.id FOR UPDATE;
    SELECT array_agg(r.id) INTO v_failed FROM receipts AS r WHERE r.id = ANY (p_requests) AND r.state = 'failed';

    IF v_failed IS NULL THEN
        SELECT c.words, c.stored_attempts, c.numbers, c.epoch, c.version, c.free, c.held, c.sold, c.withdrawn, c.total,
               c.created_at, c.available, c.price_cents, c.currency
          INTO words, stored_attempts, numbers, epoch, version, free, held, sold, withdrawn, total,
               created_at, available, price_cents, currency
          FROM claim_units(p_drop, p_epoch, p_requests, p_attempts, p_ids, p_buyers, p_quantities,
                           NULL, p_buyers_once, p_units_once, 'minted') AS c;
    ELSE
        SELECT c.words, c.stored_attempts, c.numbers, c.epoch, c.version, c.free, c.held, c.sold, c.withdrawn, c.total,
               c.created_at, c.available, c.price_cents, c.currency
          INTO v_told, v_stored, numbers, epoch, version, free, held, sold, withdrawn, total,
               created_at, available, price_cents, currency
          FROM (SELECT coalesce(array_agg(w.request ORDER BY w.i), '{}') AS requests,
                       coalesce(array_agg(w.attempt ORDER BY w.i), '{}') AS attempts,
                       coalesce(array_agg(w.id ORDER BY w.i), '{}') AS ids,
                       coalesce(array_agg(w.buyer ORDER BY w.i), '{}') AS buyers,
                       coalesce(array_agg(w.quantity ORDER BY w.i), '{}') AS quantities
                  FROM unnest(p_requests, p_attempts, p_ids, p_buyers, p_quantities)
                       WITH ORDINALITY AS w (request, attempt, id, buyer, quantity, i)
                 WHERE w.request <> ALL (v_failed)) AS left_over
         CROSS JOIN LATERAL claim_units_singly(p_drop, p_epoch, left_over.requests, left_over.attempts, left_over.ids,
                                               left_over.buyers, left_over.quantities, NULL, 'minted') AS c;
        SELECT array_agg(CASE WHEN w.request = ANY (v_failed) THEN 'given_up' ELSE v_told[w.place] END ORDER BY w.i),
               array_agg(CASE WHEN w.request = ANY (v_failed) THEN 0 ELSE v_stored[w.place] END ORDER BY w.i)
          INTO words, stored_attempts
          FROM (SELECT u.request, u.i,
                       count(*) FILTER (WHERE u.request <> ALL (v_failed)) OVER (ORDER BY u.i)::integer AS place
                  FROM unnest(p_requests) WITH ORDINALITY AS u (request, i)) AS w;
    END IF;

    expires_at := created_at;
    IF words IS NULL THEN
        v_held := p_ids;
        v_receipts := p_requests;
        v_buyers := p_buyers;
    ELSE
        SELECT array_agg(w.id ORDER BY w.i), array_agg(w.request ORDER BY w.i), array_agg(w.buyer ORDER BY w.i)
          INTO v_held, v_receipts, v_buyers
          FROM unnest(p_ids, p_requests, p_buyers) WITH ORDINALITY AS w (id, request, buyer, i)
         WHERE words[w.i] = 'held';
        IF v_held IS NULL THEN
            RETURN;
        END IF;
    END IF;

    -- Each has one unit, and `numbers` are those of the held ones in their order.
    INSERT INTO purchases (id, request_id, reservation_id, drop_id, amount_cents, purchased_at, quantity, buyer, units)
    SELECT w.id, w.receipt, w.id, p_drop, mint_units.price_cents, mint_units.created_at, 1, w.buyer, ARRAY[w.number]
      FROM unnest(v_held, v_receipts, v_buyers, numbers) AS w (id, receipt, buyer, number);
    INSERT INTO memberships (id, receipt_id, drop_id, number, buyer, minted_at, changed_at)
    SELECT w.id, w.receipt, p_drop, w.number, w.buyer, mint_units.created_at, mint_units.created_at
      FROM unnest(v_held, v_receipts, v_buyers, numbers) AS w (id, receipt, buyer, number);
    INSERT INTO records (action, drop_id, subjects) VALUES ('MINTED', p_drop, v_held);
    UPDATE receipts AS r
       SET state = 'fulfilled', membership_id = w.id, changed_at = mint_units.created_at
      FROM unnest(v_held, v_receipts) AS w (id, receipt)
     WHERE r.id = w.receipt AND r.state = 'pending' AND r.drop_id = p_drop;
    GET DIAGNOSTICS v_rows = ROW_COUNT;
    IF v_rows <> cardinality(v_held) THEN
        RAISE 'a number without its receipt' USING ERRCODE = 'VR002';
    END IF;
END
$$;
