-- purchase_content: a record of a block as it is hashed: canonical JSON of a purchase and of what happened to it. Its
-- place in the ledger is part of it, so that two that were swapped are both out of place.
--
-- Locks  nothing
-- Index  none
CREATE OR REPLACE FUNCTION purchase_content(
    p_sequence bigint, p_action text, p_id uuid, p_reservation uuid, p_drop bigint, p_units integer[],
    p_amount bigint, p_currency text, p_restocked boolean, p_subject text, p_at timestamptz
) RETURNS text
    LANGUAGE sql STABLE
AS $$
SELECT '{"sequence":' || p_sequence || ',"action":"' || p_action || '","purchaseId":"' || p_id
    || CASE WHEN p_reservation IS NULL THEN ''  -- it was gone before it could be sealed
       ELSE '","reservationId":"' || p_reservation || '","dropId":' || p_drop
         || ',"units":' || array_to_json(p_units)::text
         || ',"amountCents":' || p_amount || ',"currency":' || coalesce(to_json(p_currency)::text, 'null')
         || CASE WHEN p_action = 'REFUNDED' THEN ',"restocked":' || coalesce(p_restocked, false)::text ELSE '' END
         || ',"subject":"' || p_subject
       END
    || '","timestamp":"' || to_char(p_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"') || '"}'
$$;
