-- name: open_slots :one
-- Make slots of the first units of a freezer, all of them at the temperature they are to have.
WITH made AS (
    INSERT INTO slots (drop_id, number, target_temp, temperature)
    SELECT @drop_id::bigint, n, @target::float8::numeric(6,2), @target::float8::numeric(6,2)
      FROM generate_series(1, @count::integer) AS n
    RETURNING number
)
SELECT count(*) AS made FROM made;

-- name: partition_readings :one
-- Make and throw away the weeks of readings; see functions/partition_readings.sql.
SELECT partition_readings(@days::integer) AS changed;

-- name: find_freezers :many
-- The drops whose units are slots, with how many.
SELECT s.drop_id, count(*) AS slots FROM slots AS s GROUP BY s.drop_id ORDER BY s.drop_id;

-- name: list_slots :many
-- Slots by id, after a cursor, all or (not null) these: condition, who has each, what is booked there, and
-- its last readings, oldest first. A hold that ran out has its slot until it is swept, which takes an instant.
-- Index  slots_pkey
SELECT s.drop_id, s.number, n.name, s.temperature::float8, s.target_temp::float8, s.temp_status, s.last_maintenance,
       CASE WHEN u.state = 'free' THEN 'AVAILABLE'
            WHEN r.state IN ('active', 'paying') THEN 'RESERVED'
            ELSE 'OCCUPIED' END AS status,
       coalesce(u.state = 'withdrawn', false) AS withdrawn,
       h.temperatures, h.moments,
       CASE WHEN r.state IN ('active', 'paying') THEN r.id END AS reservation_id, r.buyer AS holder,
       hold_status(r.state, r.expires_at) AS hold_status, r.expires_at, clock_timestamp() AS server_time,
       b.id AS booking_id, b.purchase_id, b.reservation_id AS booked_reservation_id, b.buyer, b.manifest_id,
       b.priority, b.vaccine_type, b.batch_number, b.quantity, b.confirmed_at, b.released_at
  FROM slots AS s
       -- OFFSET: one look-up each, however large or small the planner believes the sale to be.
 CROSS JOIN LATERAL (SELECT * FROM unit_names AS x WHERE x.drop_id = s.drop_id AND x.number = s.number OFFSET 0) AS n
  LEFT JOIN LATERAL (SELECT * FROM units AS x WHERE x.drop_id = s.drop_id AND x.number = s.number OFFSET 0) AS u ON true
  LEFT JOIN LATERAL (SELECT * FROM picks AS x WHERE x.drop_id = s.drop_id AND x.number = s.number OFFSET 0) AS p ON true
  LEFT JOIN LATERAL (SELECT * FROM reservations AS x WHERE x.id = p.reservation_id OFFSET 0) AS r ON true
  LEFT JOIN LATERAL (SELECT * FROM bookings AS x
                      WHERE x.drop_id = s.drop_id AND x.number = s.number AND x.released_at IS NULL
                     OFFSET 0) AS b ON true
 CROSS JOIN LATERAL (
       SELECT array_agg(k.temperature::float8 ORDER BY k.recorded_at) AS temperatures,
              array_agg(k.recorded_at ORDER BY k.recorded_at) AS moments
         FROM (SELECT g.temperature, g.recorded_at
                 FROM readings AS g
                WHERE g.drop_id = s.drop_id AND g.number = s.number
                ORDER BY g.recorded_at DESC
                LIMIT @history::bigint) AS k) AS h
 WHERE (@drops::bigint[] IS NULL
        OR (s.drop_id, s.number) IN (SELECT * FROM unnest(@drops::bigint[], @numbers::integer[])))
   AND (s.drop_id, s.number) > (@after_drop::bigint, @after_number::integer)
 ORDER BY s.drop_id, s.number
 LIMIT @count::bigint
OFFSET @skip::bigint;

-- name: count_slots :one
-- How many slots there are.
SELECT count(*) AS items FROM slots;

-- name: find_slot :maybe
-- Whether a unit is a slot.
-- Index  slots_pkey
SELECT s.number FROM slots AS s WHERE s.drop_id = @drop_id AND s.number = @number;

-- name: find_cool_slot :maybe
-- The first slot that is not critical, and what it should have.
SELECT s.drop_id, s.number, s.target_temp::float8
  FROM slots AS s
 WHERE s.temp_status <> 'CRITICAL'
 ORDER BY s.drop_id, s.number
 LIMIT 1;

-- name: book_slots :many
-- Book a batch of held slots; see functions/book_slots.sql.
SELECT *
  FROM book_slots(@requests::uuid[], @purchases::uuid[], @reservations::uuid[], @buyers::text[], @bookings::uuid[],
                  @manifests::text[], @priorities::text[], @vaccines::text[], @batches::text[], @quantities::integer[]);

-- name: find_booking :maybe
-- One booking, open or released.
-- Index  bookings_pkey
SELECT b.*, p.request_id
  FROM bookings AS b
  JOIN purchases AS p ON p.id = b.purchase_id
 WHERE b.id = @id;

-- name: find_bookings_by_reservation :many
-- The bookings that holds became, with the requests that made them.
-- Index  bookings_reservation_id_key
SELECT b.*, p.request_id
  FROM bookings AS b
  JOIN purchases AS p ON p.id = b.purchase_id
 WHERE b.reservation_id = ANY (@reservations::uuid[]);

-- name: find_reading :maybe
-- The reading that a request wrote before, with its slot's condition now. By readings_by_request, in every
-- week's partition: one that holds no such reading costs a look.
SELECT 'repeated' AS word, k.drop_id, k.number, k.temperature::float8, k.recorded_at, s.temp_status AS status
  FROM readings AS k
  JOIN slots AS s ON s.drop_id = k.drop_id AND s.number = k.number
 WHERE k.request_id = @request;

-- name: record_readings :many
-- Write down what sensors measured; see functions/record_readings.sql.
SELECT *
  FROM record_readings(@requests::uuid[], @drops::bigint[], @numbers::integer[],
                       @temperatures::float8[]::numeric(6,2)[], @moments::timestamptz[], @days::integer,
                       make_interval(secs => @ahead_seconds::float8));
