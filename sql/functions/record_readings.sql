-- record_readings: write down what sensors measured, one row a reading in the order asked.
--
-- word: recorded; repeated (this request was done before; its first reading is told), not_found, early
-- (from the future), late (before what is kept). The newest reading of a slot is its condition; one older
-- than that is history only. A clock that is ahead moves no condition into the future. Each turn to
-- critical of a slot with an open booking leaves its record, and what changed is told once a drop: subjects
-- are the slots' ids, written as UUIDs. Running it twice is running it once.
--
-- Locks  slots by drop and number.
-- Index  slots_pkey, readings_by_request, bookings_one_open_a_slot
CREATE OR REPLACE FUNCTION record_readings(
    p_requests uuid[], p_drops bigint[], p_numbers integer[], p_temperatures numeric[], p_moments timestamptz[],
    p_days integer, p_ahead interval
)
    RETURNS TABLE (word text, drop_id bigint, number integer, temperature float8, recorded_at timestamptz, status text)
    LANGUAGE plpgsql
    SET enable_seqscan = off
AS $$
#variable_conflict use_column
DECLARE
    v_now timestamptz;
BEGIN
    PERFORM FROM (SELECT DISTINCT u.drop_id, u.number FROM unnest(p_drops, p_numbers) AS u (drop_id, number)
                   ORDER BY u.drop_id, u.number) AS w
      CROSS JOIN LATERAL (SELECT FROM slots AS s
                           WHERE s.drop_id = w.drop_id AND s.number = w.number
                             FOR UPDATE) AS locked;
    v_now := clock_timestamp();  -- after the locks: of two that wait for one slot the later is the newer

    RETURN QUERY
      WITH asked AS (
          SELECT w.*, s.target_temp, s.measured_at, s.temperature AS was, s.temp_status AS was_status,
                 k.drop_id AS kept_drop, k.number AS kept_number, k.temperature AS kept, k.recorded_at AS kept_at,
                 CASE WHEN s.number IS NULL THEN 'not_found'
                      WHEN k.request_id IS NOT NULL THEN 'repeated'
                      WHEN w.moment > v_now + p_ahead THEN 'early'
                      WHEN w.moment < v_now - make_interval(days => p_days) THEN 'late'
                      WHEN w.copy > 1 THEN 'repeated'
                      ELSE 'recorded' END AS word
            FROM (SELECT u.*, row_number() OVER (PARTITION BY u.request_id ORDER BY u.i) AS copy
                    FROM unnest(p_requests, p_drops, p_numbers, p_temperatures, p_moments)
                         WITH ORDINALITY AS u (request_id, drop_id, number, temperature, moment, i)) AS w
                 -- OFFSET: one look-up each, whatever the planner believes of what is there.
            LEFT JOIN LATERAL (SELECT * FROM slots AS x
                                WHERE x.drop_id = w.drop_id AND x.number = w.number OFFSET 0) AS s ON true
            LEFT JOIN LATERAL (SELECT * FROM readings AS x WHERE x.request_id = w.request_id OFFSET 0) AS k ON true
      ), fresh AS (
          SELECT a.*, coalesce(a.moment, v_now) AS at, temp_status(a.temperature, a.target_temp) AS is_status
            FROM asked AS a
           WHERE a.word = 'recorded'
      ), written AS (
          INSERT INTO readings (drop_id, number, temperature, recorded_at, request_id)
          SELECT f.drop_id, f.number, f.temperature, f.at, f.request_id FROM fresh AS f
      ), turns AS (
          SELECT f.*, lag(f.is_status, 1, f.was_status) OVER slot_by_slot AS before,
                 row_number() OVER slot_by_slot AS turn,
                 count(*) OVER (PARTITION BY f.drop_id, f.number) AS of_turns
            FROM fresh AS f
           WHERE least(f.at, v_now) > f.measured_at
          WINDOW slot_by_slot AS (PARTITION BY f.drop_id, f.number ORDER BY f.at, f.i)
      ), moved AS (
          UPDATE slots AS s
             SET temperature = t.temperature, temp_status = t.is_status, measured_at = least(t.at, v_now)
            FROM turns AS t
           WHERE s.drop_id = t.drop_id AND s.number = t.number AND t.turn = t.of_turns
       RETURNING s.drop_id, s.number, (s.temperature, s.temp_status) <> (t.was, t.was_status) AS changed
      ), critical AS (
          INSERT INTO records (action, drop_id, subjects, slots, manifests, buyers, made_at)
          SELECT 'TEMP_CRITICAL', b.drop_id, array_agg(b.id ORDER BY t.at, t.i),
                 array_agg((b.drop_id << 20) + b.number ORDER BY t.at, t.i),
                 array_agg(b.manifest_id ORDER BY t.at, t.i), array_agg(b.buyer ORDER BY t.at, t.i), v_now
            FROM turns AS t
           CROSS JOIN LATERAL (SELECT * FROM bookings AS x
                                WHERE x.drop_id = t.drop_id AND x.number = t.number AND x.released_at IS NULL
                               OFFSET 0) AS b
           WHERE t.is_status = 'CRITICAL' AND t.before <> 'CRITICAL'
           GROUP BY b.drop_id
      ), told AS (
          INSERT INTO outbox (drop_id, epoch, version, kind, subjects)
          SELECT m.drop_id, e.epoch, k.version, 'condition',
                 array_agg(lpad(to_hex((m.drop_id << 20) + m.number), 32, '0')::uuid ORDER BY m.number)
            FROM moved AS m
            JOIN stock AS k ON k.drop_id = m.drop_id
           CROSS JOIN engine_state AS e
           WHERE m.changed
           GROUP BY m.drop_id, e.epoch, k.version
      )
      SELECT a.word, coalesce(a.kept_drop, f.drop_id, a.drop_id), coalesce(a.kept_number, f.number, a.number),
             coalesce(a.kept, f.temperature, a.temperature)::float8, coalesce(a.kept_at, f.at),
             coalesce(l.is_status, a.was_status)
        FROM asked AS a
        LEFT JOIN fresh AS f ON f.request_id = a.request_id
        LEFT JOIN turns AS l ON l.drop_id = a.drop_id AND l.number = a.number AND l.turn = l.of_turns
       ORDER BY a.i;
END
$$;
