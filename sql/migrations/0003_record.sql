-- What must not be lost: answers already given, and facts still to be told.

-- Answers of the calm operations, by request. Holds and purchases carry their own request_id.
CREATE TABLE requests (
    id           uuid        PRIMARY KEY,
    fingerprint  bytea       NOT NULL,
    status       smallint    NOT NULL,
    body         bytea       NOT NULL,
    created_at   timestamptz NOT NULL DEFAULT clock_timestamp()
);

-- For prune_requests.
CREATE INDEX requests_by_age ON requests USING brin (created_at);

-- One row a batch, written in the transaction of what it tells.
CREATE TABLE outbox (
    id          bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    drop_id     bigint      NOT NULL,
    epoch       bigint      NOT NULL,
    version     bigint      NOT NULL,
    kind        text        NOT NULL,
    subjects    uuid[]      NOT NULL,
    created_at  timestamptz NOT NULL DEFAULT clock_timestamp()
);
