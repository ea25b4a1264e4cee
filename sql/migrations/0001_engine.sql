-- What the engine knows of itself: which history it is (epoch), and on which line of the log.

CREATE TABLE engine_state (
    only_row  boolean PRIMARY KEY DEFAULT true,
    seed      uuid    NOT NULL DEFAULT gen_random_uuid(),
    epoch     bigint  NOT NULL DEFAULT 1,
    timeline  text    NOT NULL,

    CONSTRAINT there_is_one_engine CHECK (only_row)
);

INSERT INTO engine_state (timeline)
VALUES (substring(pg_walfile_name(pg_current_wal_lsn()) FROM 1 FOR 8));
