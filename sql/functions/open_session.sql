-- open_session: let a device in: a new session in place of the one its user had, or the one that its key names.
--
-- `word` is opened; repeated (the key names a session, which may be over); mismatch (of another device); kept
-- (p_keep, and the device has a live one); or why the user may have none: missing, suspended, deleted. An account
-- has one live session: two devices that come at once wait for each other at its row, and the index sees to it
-- that whatever else writes sessions cannot make two.
--
-- Locks  the user, then its live session.
-- Index  sessions_one_a_key, sessions_one_live_a_user
CREATE OR REPLACE FUNCTION open_session(
    p_id uuid, p_user uuid, p_device text, p_platform text, p_device_name text, p_device_model text,
    p_os_version text, p_app_version text, p_push_token text, p_ip_address text, p_key text, p_days integer,
    p_keep boolean)
    RETURNS TABLE (word text, role text, session sessions)
    LANGUAGE plpgsql
AS $$
DECLARE
    v_status text;
    v_now    timestamptz;
BEGIN
    SELECT u.status, u.role INTO v_status, role FROM users AS u WHERE u.id = p_user FOR NO KEY UPDATE;
    IF v_status IS DISTINCT FROM 'active' THEN
        word := coalesce(v_status, 'missing');
        RETURN NEXT;
        RETURN;
    END IF;
    SELECT s.* INTO session FROM sessions AS s WHERE s.user_id = p_user AND s.idempotency_key = p_key;
    IF session.id IS NOT NULL THEN
        word := CASE WHEN session.device_id = p_device AND session.platform = p_platform
                     THEN 'repeated' ELSE 'mismatch' END;
        RETURN NEXT;
        RETURN;
    END IF;
    v_now := clock_timestamp();
    IF p_keep THEN
        UPDATE sessions AS s
           SET device_name = coalesce(p_device_name, s.device_name),
               device_model = coalesce(p_device_model, s.device_model),
               os_version = coalesce(p_os_version, s.os_version),
               app_version = coalesce(p_app_version, s.app_version),
               push_token = coalesce(p_push_token, s.push_token),
               push_token_updated_at = CASE WHEN p_push_token IS NULL THEN s.push_token_updated_at ELSE v_now END,
               ip_address = coalesce(p_ip_address, s.ip_address),
               last_activity_at = v_now
         WHERE s.user_id = p_user AND s.is_active AND s.expires_at > v_now
           AND s.device_id = p_device AND s.platform = p_platform
     RETURNING s.* INTO session;
        IF session.id IS NOT NULL THEN
            word := 'kept';
            RETURN NEXT;
            RETURN;
        END IF;
    END IF;
    UPDATE sessions AS s
       SET is_active = false,
           terminated_at = v_now,
           termination_reason = CASE WHEN s.expires_at <= v_now THEN 'expired'
                                     WHEN s.device_id = p_device THEN 'new_session'
                                     ELSE 'new_session_on_different_device' END
     WHERE s.user_id = p_user AND s.is_active;
    INSERT INTO sessions AS s (id, user_id, device_id, device_name, device_model, platform, os_version, app_version,
                               push_token, push_token_updated_at, ip_address, idempotency_key, expires_at)
    VALUES (p_id, p_user, p_device, p_device_name, p_device_model, p_platform, p_os_version, p_app_version,
            p_push_token, CASE WHEN p_push_token IS NOT NULL THEN v_now END, p_ip_address, p_key,
            v_now + make_interval(days => p_days))
    RETURNING s.* INTO session;
    word := 'opened';
    RETURN NEXT;
END
$$;
