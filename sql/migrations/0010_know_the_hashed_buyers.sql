-- Of what an index of an expression holds nothing is known before: every look-up of a buyer would be
-- planned as if he had a two-hundredth of all holds. An empty table is left unknown, though: analysed,
-- it would be planned for as empty.
DO $$
BEGIN
    IF EXISTS (SELECT FROM reservations) THEN
        ANALYZE reservations;
    END IF;
END
$$;
