-- longest_run: how many free units of a drop there are beside each other at most.
--
-- Locks  nothing: what others have in their hands counts as free.
-- Index  units_free_by_position
CREATE OR REPLACE FUNCTION longest_run(p_drop bigint)
    RETURNS integer
    LANGUAGE sql
    STABLE
    SET enable_seqscan = off
AS $$
    SELECT coalesce(max(run.units), 0)::integer
      FROM (SELECT count(*) AS units
              FROM (SELECT units.number - row_number() OVER (ORDER BY units.position) AS first
                      FROM units
                     WHERE units.drop_id = p_drop AND units.state = 'free') AS free
             GROUP BY free.first) AS run
$$;
