-- booking_content: an entry of the ledger as it is hashed: canonical JSON, its keys in this order; `ledger.content` in
-- engine/record/ledger.py makes the same.
--
-- Locks  nothing
-- Index  none
CREATE OR REPLACE FUNCTION booking_content(
    p_booking uuid, p_slot bigint, p_manifest text, p_subject text, p_action text, p_at timestamptz, p_previous text
) RETURNS text
    LANGUAGE sql STABLE
AS $$
SELECT '{"bookingId":"' || p_booking || '","slotId":"' || p_slot || '","manifestId":' || to_json(p_manifest)::text
    || ',"userId":"' || p_subject || '","action":"' || p_action
    || '","timestamp":"' || to_char(p_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"')
    || '","previousHash":"' || p_previous || '"}'
$$;
