-- names_of: what units of a drop are called, in the order of their numbers; null where units have no
-- names. Inlined where it is called, so that drops without names pay for a comparison.
--
-- Locks  nothing.
-- Index  unit_names_pkey
CREATE OR REPLACE FUNCTION names_of(p_drop drops, p_numbers integer[])
    RETURNS text[]
    LANGUAGE sql
    STABLE
AS $$
    SELECT CASE WHEN p_drop.pick = 'named'
                THEN ARRAY(SELECT (SELECT u.name FROM unit_names AS u
                                    WHERE u.drop_id = p_drop.id AND u.number = n.number)
                             FROM unnest(p_numbers) WITH ORDINALITY AS n (number, i)
                            ORDER BY n.i) END
$$;
