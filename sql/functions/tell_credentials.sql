-- tell_credentials: a session, a user or a key is no longer what it was; called by their triggers, with which of
-- them it is.
--
-- Locks  nothing.
-- Index  none
CREATE OR REPLACE FUNCTION tell_credentials()
    RETURNS trigger
    LANGUAGE plpgsql
AS $$
BEGIN
    INSERT INTO credential_changes (kind, subject_id) VALUES (tg_argv[0], new.id);
    RETURN NULL;
END
$$;
