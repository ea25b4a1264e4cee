-- bump_epoch: begin a new epoch if Postgres is on another timeline than the one recorded, or if
-- somebody saw a later epoch or version than ours (p_seen, that epoch): history was lost.
--
-- A p_seen of more than a day ahead is no epoch but a lie, and is ignored: Redis decides nothing.
--
-- Epochs are drawn from the clock, in seconds, and only rise: a count would be counted again by a
-- second primary that never saw the first count, and two histories would share their versions.
--
-- After a failover every connection of every process comes here at once, and one of them begins the
-- epoch: the others wait for its row, find nothing left to do, and read with a snapshot of their own.
--
-- Locks  the one row of engine_state.
-- Index  engine_state_pkey
CREATE OR REPLACE FUNCTION bump_epoch(p_seen bigint)
    RETURNS bigint
    LANGUAGE sql
AS $$
    WITH now_on AS (
        SELECT substring(pg_walfile_name(pg_current_wal_lsn()) FROM 1 FOR 8) AS timeline,
               extract(epoch FROM clock_timestamp())::bigint AS second
    ), heard AS (
        SELECT now_on.*, CASE WHEN p_seen <= now_on.second + 86400 THEN p_seen END AS seen
          FROM now_on
    )
    UPDATE engine_state
       SET epoch = greatest(engine_state.epoch + 1, coalesce(heard.seen, 0) + 1, heard.second),
           timeline = heard.timeline
      FROM heard
     WHERE engine_state.timeline <> heard.timeline
        OR heard.seen >= engine_state.epoch;

    SELECT engine_state.epoch FROM engine_state;
$$;
