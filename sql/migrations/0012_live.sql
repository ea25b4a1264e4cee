-- Whoever follows a sale live reads the outbox: all that happens to units is told there. What operators
-- do to a drop is told there, too, from here on, whichever statement does it.
CREATE FUNCTION tell_terms() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RETURN NULL;  -- its body stands in sql/functions
END
$$;

CREATE TRIGGER a_new_drop_is_told AFTER INSERT ON drops
    FOR EACH ROW EXECUTE FUNCTION tell_terms();

CREATE TRIGGER new_terms_are_told AFTER UPDATE OF terms_version ON drops
    FOR EACH ROW WHEN (old.terms_version <> new.terms_version) EXECUTE FUNCTION tell_terms();
