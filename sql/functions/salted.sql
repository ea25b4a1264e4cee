-- salted: what the ledger calls a buyer: 32 hex digits that tell nothing without his salt.
--
-- Locks  nothing
-- Index  none
CREATE OR REPLACE FUNCTION salted(p_salt bytea, p_buyer text) RETURNS text
    LANGUAGE sql STABLE
AS $$
SELECT left(encode(sha256(p_salt || convert_to(p_buyer, 'UTF8')), 'hex'), 32)
$$;
