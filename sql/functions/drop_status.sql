-- drop_status: what a drop is called now, from its window, its switch and its stock.
--
-- Locks  nothing.
-- Index  none
CREATE OR REPLACE FUNCTION drop_status(p_drop drops, p_stock stock)
    RETURNS text
    LANGUAGE sql
AS $$
    SELECT CASE WHEN p_drop.prepared_at IS NULL THEN 'preparing'
                WHEN p_drop.ends_at <= greatest(clock_timestamp(), p_drop.starts_at) THEN 'ended'
                WHEN p_drop.paused_reason IS NOT NULL THEN 'paused'
                WHEN p_drop.starts_at > clock_timestamp() THEN 'upcoming'
                WHEN p_stock.free = 0 AND p_stock.held = 0 AND p_stock.total >= p_drop.total_stock THEN 'sold_out'
                ELSE 'live' END
$$;
