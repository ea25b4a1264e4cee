-- rotate_refresh: take a refresh token, of which only its number is kept, and count one further.
--
-- `word` is rotated; again (the one before, within the grace: its answer was lost, and it gets the same one);
-- reused (an older one: two have it, so nobody has the session any longer, and it is ended here); or why it is worth
-- nothing: missing, ended, expired, suspended, deleted.
--
-- Locks  the session.
-- Index  sessions_pkey
CREATE OR REPLACE FUNCTION rotate_refresh(p_session uuid, p_generation integer, p_grace interval)
    RETURNS TABLE (word text, role text, session sessions)
    LANGUAGE plpgsql
AS $$
DECLARE
    v_status text;
    v_now    timestamptz;
BEGIN
    SELECT s.* INTO session FROM sessions AS s WHERE s.id = p_session FOR UPDATE;
    v_now := clock_timestamp();
    SELECT u.status, u.role INTO v_status, role FROM users AS u WHERE u.id = session.user_id;
    word := CASE
        WHEN session.id IS NULL OR p_generation > session.refresh_generation THEN 'missing'
        WHEN v_status <> 'active' THEN v_status
        WHEN NOT session.is_active THEN 'ended'
        WHEN session.expires_at <= v_now THEN 'expired'
        WHEN p_generation = session.refresh_generation THEN 'rotated'
        WHEN p_generation = session.refresh_generation - 1 AND session.refreshed_at > v_now - p_grace THEN 'again'
        ELSE 'reused' END;
    IF word = 'rotated' THEN
        UPDATE sessions AS s
           SET refresh_generation = s.refresh_generation + 1, refreshed_at = v_now, last_activity_at = v_now
         WHERE s.id = p_session
     RETURNING s.* INTO session;
    ELSIF word = 'reused' THEN
        UPDATE sessions AS s
           SET is_active = false, terminated_at = v_now, termination_reason = 'refresh_reused'
         WHERE s.id = p_session
     RETURNING s.* INTO session;
    END IF;
    RETURN NEXT;
END
$$;
