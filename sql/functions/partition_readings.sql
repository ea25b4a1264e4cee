-- partition_readings: have a partition for every week from p_days ago to two weeks ahead, and throw away
-- those that end before; how many were made and thrown away. Weeks begin on Monday, UTC. Done as its owner,
-- whose tables they are, for whoever may delete readings.
--
-- Locks  an advisory lock, so that two keepers take turns; readings, for whoever changes its partitions.
--        To throw one away waits for every reader, so only one goes at a time.
-- Index  none
CREATE OR REPLACE FUNCTION partition_readings(p_days integer)
    RETURNS integer
    LANGUAGE plpgsql
    SECURITY DEFINER SET search_path FROM CURRENT
AS $$
DECLARE
    v_today  timestamp := clock_timestamp() AT TIME ZONE 'UTC';
    v_week   timestamp;
    v_name   text;
    v_oldest text;
    v_count  integer := 0;
BEGIN
    IF NOT has_table_privilege(session_user, 'readings'::regclass, 'DELETE') THEN
        RAISE insufficient_privilege;
    END IF;
    PERFORM pg_advisory_xact_lock(hashtextextended('partition_readings', 0));
    FOR v_week IN
        SELECT generate_series(date_trunc('week', v_today - make_interval(days => p_days)), v_today + interval '14 days',
                               interval '7 days')
    LOOP
        v_name := to_char(v_week, '"readings_"YYYYMMDD');
        IF to_regclass(v_name) IS NULL THEN
            -- Made apart and then attached: to be made inside, it would lock out all who read and write.
            EXECUTE format('CREATE TABLE %I (LIKE readings INCLUDING ALL)', v_name);
            EXECUTE format('ALTER TABLE readings ATTACH PARTITION %I FOR VALUES FROM (%L) TO (%L)',
                           v_name, v_week AT TIME ZONE 'UTC', (v_week + interval '7 days') AT TIME ZONE 'UTC');
            v_count := v_count + 1;
        END IF;
    END LOOP;

    SELECT min(c.relname) INTO v_oldest
      FROM pg_inherits AS i
      JOIN pg_class AS c ON c.oid = i.inhrelid
     WHERE i.inhparent = 'readings'::regclass;
    IF v_oldest < to_char(date_trunc('week', v_today - make_interval(days => p_days)), '"readings_"YYYYMMDD') THEN
        EXECUTE format('DROP TABLE %I', v_oldest);
        v_count := v_count + 1;
    END IF;
    RETURN v_count;
END
$$;
