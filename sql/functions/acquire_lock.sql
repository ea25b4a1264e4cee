-- acquire_lock: take a named lock for p_seconds if nobody has it: `taken` is its token, one more than that of
-- whoever had it last. Else `taken` is null, and the present holder has it for `rest` seconds more, unless it
-- renews. Repeated by the same owner it is the same lock, not a second one.
--
-- A holder that is looked at is not waited for. One whose time is over is, if it is writing just now: then the
-- lock's row is locked by its guard until it has committed, and whoever comes next sees what it wrote.
--
-- Locks  the lock's row, unless somebody has it.
-- Index  locks_pkey
CREATE OR REPLACE FUNCTION acquire_lock(p_name text, p_owner text, p_seconds double precision,
                                        OUT taken bigint, OUT rest double precision)
    LANGUAGE plpgsql
AS $$
DECLARE
    v_lock locks;
BEGIN
    SELECT l.* INTO v_lock FROM locks AS l WHERE l.name = p_name;
    IF NOT FOUND OR v_lock.owner IS NULL OR v_lock.expires_at <= clock_timestamp() THEN
        INSERT INTO locks AS l (name, owner, expires_at)
        VALUES (p_name, p_owner, clock_timestamp() + make_interval(secs => p_seconds))
            ON CONFLICT (name) DO UPDATE
           SET owner = excluded.owner,
               token = l.token + 1,
               acquired_at = clock_timestamp(),
               expires_at = clock_timestamp() + make_interval(secs => p_seconds)
         WHERE l.owner IS NULL OR l.expires_at <= clock_timestamp()
        RETURNING l.token INTO taken;
        IF taken IS NOT NULL THEN
            rest := 0;
            RETURN;
        END IF;
        -- Somebody was first: a new statement sees his row.
        SELECT l.* INTO v_lock FROM locks AS l WHERE l.name = p_name;
    END IF;
    IF v_lock.owner = p_owner THEN
        taken := v_lock.token;
    END IF;
    rest := greatest(extract(epoch FROM v_lock.expires_at - clock_timestamp()), 0);
END
$$;
