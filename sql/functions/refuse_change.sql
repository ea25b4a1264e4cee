-- refuse_change: no; called by triggers of tables that are only ever added to.
--
-- Locks  nothing.
-- Index  none
CREATE OR REPLACE FUNCTION refuse_change()
    RETURNS trigger
    LANGUAGE plpgsql
AS $$
BEGIN
    RAISE restrict_violation USING MESSAGE = format('%s is only ever added to', tg_table_name);
END
$$;
