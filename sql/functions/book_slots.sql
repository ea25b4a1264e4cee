-- book_slots: turn live holds of slots into purchases with a manifest, each at most once.
--
-- As purchase_units: only before the deadline by this server's clock, only for its buyer (null stands for
-- the owner), and what is not returned was not booked by this call. A hold of anything but one slot is left
-- as it is. One record a batch and freezer says BOOKING_CONFIRMED, and nothing says PURCHASED. Running it
-- twice is running it once.
--
-- One row a freezer: its figures, and what was booked; `bookings` to `buyers` run in parallel.
--
-- Locks  as purchase_units. Of bookings nothing: they are new rows.
-- Index  reservations_pkey, slots_pkey
CREATE OR REPLACE FUNCTION book_slots(
    p_requests uuid[], p_purchases uuid[], p_reservations uuid[], p_buyers text[], p_bookings uuid[],
    p_manifests text[], p_priorities text[], p_vaccines text[], p_batches text[], p_quantities integer[]
)
    RETURNS TABLE (
        drop_id bigint, epoch bigint, version bigint,
        free integer, held integer, sold integer, withdrawn integer, total integer,
        bookings uuid[], numbers integer[], buyers text[], confirmed_at timestamptz
    )
    LANGUAGE plpgsql
    SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off
    SET plan_cache_mode = force_generic_plan SET random_page_cost = 0.1
AS $$
DECLARE
    v_requests      uuid[];
    v_purchases     uuid[];
    v_reservations  uuid[];
    v_buyers        text[];
    v_bought        record;
BEGIN
    -- Which units a hold has never changes, so this needs no lock.
    SELECT array_agg(w.request_id), array_agg(w.id), array_agg(w.reservation_id), array_agg(w.buyer)
      INTO v_requests, v_purchases, v_reservations, v_buyers
      FROM unnest(p_requests, p_purchases, p_reservations, p_buyers) AS w (request_id, id, reservation_id, buyer)
     CROSS JOIN LATERAL (SELECT * FROM reservations AS k WHERE k.id = w.reservation_id OFFSET 0) AS r
      JOIN slots AS s ON s.drop_id = r.drop_id AND s.number = r.units[1]
     WHERE r.quantity = 1;
    IF v_purchases IS NULL THEN
        RETURN;
    END IF;
    FOR v_bought IN
        SELECT * FROM purchase_units(v_requests, v_purchases, v_reservations, v_buyers,
                                     array_fill(NULL::text, ARRAY[cardinality(v_purchases)]), NULL)
    LOOP
        drop_id := v_bought.drop_id;
        epoch := v_bought.epoch;
        version := v_bought.version;
        free := v_bought.free;
        held := v_bought.held;
        sold := v_bought.sold;
        withdrawn := v_bought.withdrawn;
        total := v_bought.total;
        confirmed_at := v_bought.purchased_at;
        WITH made AS (
            INSERT INTO bookings AS b (id, purchase_id, reservation_id, drop_id, number, buyer, manifest_id, priority,
                                       vaccine_type, batch_number, quantity, confirmed_at)
            SELECT w.booking, s.purchase, s.reservation, book_slots.drop_id, s.number, s.buyer, w.manifest, w.priority,
                   w.vaccine, w.batch, w.quantity, book_slots.confirmed_at
              FROM unnest(v_bought.ids, v_bought.bought, v_bought.numbers, v_bought.buyers)
                   AS s (purchase, reservation, number, buyer)
              JOIN unnest(p_purchases, p_bookings, p_manifests, p_priorities, p_vaccines, p_batches, p_quantities)
                   AS w (purchase, booking, manifest, priority, vaccine, batch, quantity) ON w.purchase = s.purchase
         RETURNING b.id, b.number, b.buyer, b.manifest_id
        ), noted AS (
            INSERT INTO records (action, drop_id, subjects, slots, manifests, buyers, made_at)
            SELECT 'BOOKING_CONFIRMED', book_slots.drop_id, array_agg(m.id ORDER BY m.id),
                   array_agg((book_slots.drop_id << 20) + m.number ORDER BY m.id),
                   array_agg(m.manifest_id ORDER BY m.id), array_agg(m.buyer ORDER BY m.id), book_slots.confirmed_at
              FROM made AS m
        )
        SELECT array_agg(m.id ORDER BY m.id), array_agg(m.number ORDER BY m.id), array_agg(m.buyer ORDER BY m.id)
          INTO bookings, numbers, buyers
          FROM made AS m;
        RETURN NEXT;
    END LOOP;
END
$$;
