-- hold_status: what a reservation is called now. One past its deadline is expired, swept or not.
--
-- Locks  nothing.
-- Index  none
CREATE OR REPLACE FUNCTION hold_status(p_state reservation_state, p_expires_at timestamptz)
    RETURNS text
    LANGUAGE sql
AS $$
    SELECT CASE WHEN p_state IN ('active', 'paying') AND p_expires_at <= clock_timestamp()
                THEN 'expired' ELSE p_state::text END
$$;
