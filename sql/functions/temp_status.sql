-- temp_status: what a temperature is called in a slot that is to have another one: up to 2 degrees more
-- is normal, up to 5 a warning. Colder than wanted harms nothing.
--
-- Locks  nothing.
-- Index  none
CREATE OR REPLACE FUNCTION temp_status(p_temperature numeric, p_target numeric)
    RETURNS text
    LANGUAGE sql IMMUTABLE
AS $$
    SELECT CASE WHEN p_temperature > p_target + 5 THEN 'CRITICAL'
                WHEN p_temperature > p_target + 2 THEN 'WARNING'
                ELSE 'NORMAL' END
$$;
