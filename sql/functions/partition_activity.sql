-- partition_activity: have a partition for this month and the next two, throw away the months that ended p_days
-- ago, and of what belongs to no month the same; how much was done, 0 when nothing is left to do. Months are UTC's.
-- Done as its owner, whose tables they are, for whoever may delete activity.
--
-- Locks  an advisory lock, so that two keepers take turns; activity_logs, for whoever changes its partitions.
--        What came for a month before it was made stands in the default partition: while it is moved nobody
--        reads or writes there. To attach a month or throw one away waits for every reader.
-- Index  none
CREATE OR REPLACE FUNCTION partition_activity(p_days integer)
    RETURNS integer
    LANGUAGE plpgsql
    SECURITY DEFINER SET search_path FROM CURRENT
AS $$
DECLARE
    v_today  timestamp := clock_timestamp() AT TIME ZONE 'UTC';
    v_first  timestamp := date_trunc('month', v_today - make_interval(days => p_days));
    v_month  timestamp;
    v_from   timestamptz;
    v_to     timestamptz;
    v_name   text;
    v_count  integer := 0;
BEGIN
    IF NOT has_table_privilege(session_user, 'activity_logs'::regclass, 'DELETE') THEN
        RAISE insufficient_privilege;
    END IF;
    PERFORM pg_advisory_xact_lock(hashtextextended('partition_activity', 0));
    FOR v_month IN
        SELECT date_trunc('month', v_today) + make_interval(months => n) FROM generate_series(0, 2) AS n
    LOOP
        v_name := to_char(v_month, '"activity_logs_"YYYY_MM');
        CONTINUE WHEN to_regclass(v_name) IS NOT NULL;
        v_from := v_month AT TIME ZONE 'UTC';
        v_to := (v_month + interval '1 month') AT TIME ZONE 'UTC';
        -- Made apart, filled and then attached: to be made inside, it would lock out all who read and write,
        -- and would be refused while the default partition has rows of it. Who wrote before us is waited for, so
        -- that his row is seen; who comes after finds the month. The lock is the one that attaching wants: who
        -- writes has read there first, so to ask for the rest of it later would be a deadlock with him.
        EXECUTE format('CREATE TABLE %I (LIKE activity_logs INCLUDING ALL)', v_name);
        LOCK TABLE activity_logs_default IN ACCESS EXCLUSIVE MODE;
        EXECUTE format('WITH ours AS (DELETE FROM activity_logs_default
                                       WHERE created_at >= %L AND created_at < %L RETURNING *)
                        INSERT INTO %I SELECT * FROM ours', v_from, v_to, v_name);
        EXECUTE format('ALTER TABLE activity_logs ATTACH PARTITION %I FOR VALUES FROM (%L) TO (%L)',
                       v_name, v_from, v_to);
        RETURN 1;  -- one at a time: its locks end with it
    END LOOP;

    SELECT c.relname INTO v_name
      FROM pg_inherits AS i
      JOIN pg_class AS c ON c.oid = i.inhrelid
     WHERE i.inhparent = 'activity_logs'::regclass
       AND c.relname < to_char(v_first, '"activity_logs_"YYYY_MM')  -- the default one comes after all digits
  ORDER BY c.relname
     LIMIT 1;
    IF FOUND THEN
        EXECUTE format('DROP TABLE %I', v_name);
        RETURN 1;
    END IF;

    DELETE FROM activity_logs_default
     WHERE ctid = ANY (ARRAY(SELECT d.ctid
                               FROM activity_logs_default AS d
                              WHERE d.created_at < v_first AT TIME ZONE 'UTC'
                              LIMIT 5000));
    GET DIAGNOSTICS v_count = ROW_COUNT;
    RETURN v_count;
END
$$;
