-- The witness: what happened to the rows of a sale, written down by triggers in the same
-- transactions, append-only, and without a word of the engine: so it can judge the engine's own
-- outbox, too.
--
-- One row a changed row; `before` and `after` are null where there was none. `seq` rises in the
-- order in which changes of one row happened (it is drawn under the row's lock), and of one drop's
-- stock; between different rows it is only roughly in order, since commits are. What belongs
-- together has one `txid`: by it a unit's change finds its version.
--
-- Triggers run once a statement. Their functions choose hash joins: the engine's own functions
-- forbid them, and a batch of 512 must not be joined in nested loops.

CREATE SCHEMA witness;

CREATE SEQUENCE witness.seq CACHE 1;

-- What every fact has. The epoch is the one in force when the statement ran.
CREATE TABLE witness.fact (
    seq    bigint      NOT NULL DEFAULT nextval('witness.seq'),
    txid   bigint      NOT NULL DEFAULT pg_current_xact_id()::text::bigint,
    at     timestamptz NOT NULL DEFAULT clock_timestamp(),
    epoch  bigint      NOT NULL
);

CREATE TABLE witness.drops (
    LIKE witness.fact INCLUDING DEFAULTS,
    "drop"          bigint NOT NULL,
    max_per_buyer   integer,
    max_per_order   integer,
    total_stock     integer,
    hold_seconds    integer,
    paused          text,
    ready           boolean,
    starts          timestamptz,
    ends            timestamptz
);

-- The shelf: null is off it. Who took a unit down is the reservations' to say.
CREATE TABLE witness.units (
    LIKE witness.fact INCLUDING DEFAULTS,
    "drop"  bigint  NOT NULL,
    number  integer NOT NULL,
    before  text,
    after   text
);

CREATE TABLE witness.stock (
    LIKE witness.fact INCLUDING DEFAULTS,
    "drop"     bigint NOT NULL,
    before     bigint,  -- the version before
    version    bigint,
    free       integer,
    held       integer,
    sold       integer,
    withdrawn  integer,
    total      integer
);

CREATE TABLE witness.reservations (
    LIKE witness.fact INCLUDING DEFAULTS,
    "drop"        bigint NOT NULL,
    id            uuid   NOT NULL,
    id_before     uuid,  -- a later attempt takes the row of a tombstone, under another id
    request       uuid   NOT NULL,
    attempt       bigint NOT NULL,
    buyer         text   NOT NULL,
    before        text,
    after         text,
    quantity      integer NOT NULL,
    units         integer[] NOT NULL,
    amount_cents  bigint NOT NULL,
    expires       timestamptz NOT NULL
);

CREATE TABLE witness.purchases (
    LIKE witness.fact INCLUDING DEFAULTS,
    "drop"       bigint NOT NULL,
    id           uuid   NOT NULL,
    request      uuid   NOT NULL,
    reservation  uuid   NOT NULL,
    buyer        text   NOT NULL,
    quantity     integer NOT NULL,
    units        integer[] NOT NULL,
    reference    text,
    bought       timestamptz NOT NULL,
    before       text,  -- purchased or refunded
    after        text
);

CREATE TABLE witness.payments (
    LIKE witness.fact INCLUDING DEFAULTS,
    reference     text NOT NULL,
    reservation   uuid,
    amount_cents  bigint NOT NULL,
    currency      text NOT NULL,
    before        text,
    after         text,
    outcome       text,
    reason        text
);

CREATE TABLE witness.refunds (
    LIKE witness.fact INCLUDING DEFAULTS,
    id            bigint NOT NULL,
    reference     text,
    reservation   uuid,
    amount_cents  bigint NOT NULL,
    reason        text NOT NULL,
    verified      boolean NOT NULL,
    before        text,  -- due or done
    after         text
);

CREATE TABLE witness.outbox (
    LIKE witness.fact INCLUDING DEFAULTS,
    "drop"    bigint NOT NULL,
    id        bigint NOT NULL,
    told      bigint NOT NULL,  -- the epoch that it tells
    version   bigint NOT NULL,
    kind      text   NOT NULL,
    subjects  uuid[] NOT NULL
);

-- Moments of both clocks: a client's monotonic clock before and after it asked for Postgres's.
CREATE TABLE witness.ticks (
    before  bigint      NOT NULL,
    at      timestamptz NOT NULL,
    after   bigint      NOT NULL
);

-- Facts of this transaction are about what was there before the witness came.
CREATE TABLE witness.arrival (
    txid  bigint NOT NULL DEFAULT pg_current_xact_id()::text::bigint
);

CREATE FUNCTION witness.see_drops() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO witness.drops (epoch, "drop", max_per_buyer, max_per_order, total_stock, hold_seconds,
                               paused, ready, starts, ends)
    SELECT e.epoch, n.id, n.max_per_buyer, n.max_per_order, n.total_stock, n.hold_seconds,
           n.paused_reason, n.prepared_at IS NOT NULL, n.starts_at, n.ends_at
      FROM newer AS n CROSS JOIN engine_state AS e;
    RETURN NULL;
END
$$;

CREATE FUNCTION witness.see_units() RETURNS trigger LANGUAGE plpgsql
    SET enable_nestloop = off SET enable_mergejoin = off SET enable_hashjoin = on AS $$
DECLARE
    v_epoch bigint := (SELECT engine_state.epoch FROM engine_state);
BEGIN
    IF TG_OP = 'INSERT' THEN
        INSERT INTO witness.units (epoch, "drop", number, after)
        SELECT v_epoch, n.drop_id, n.number, n.state FROM newer AS n;
    ELSIF TG_OP = 'UPDATE' THEN
        INSERT INTO witness.units (epoch, "drop", number, before, after)
        SELECT v_epoch, n.drop_id, n.number, o.state, n.state
          FROM newer AS n LEFT JOIN older AS o USING (drop_id, number);
    ELSE
        INSERT INTO witness.units (epoch, "drop", number, before)
        SELECT v_epoch, o.drop_id, o.number, o.state FROM older AS o;
    END IF;
    RETURN NULL;
END
$$;

CREATE FUNCTION witness.see_stock() RETURNS trigger LANGUAGE plpgsql
    SET enable_nestloop = off SET enable_mergejoin = off SET enable_hashjoin = on AS $$
DECLARE
    v_epoch bigint := (SELECT engine_state.epoch FROM engine_state);
BEGIN
    IF TG_OP = 'INSERT' THEN
        INSERT INTO witness.stock (epoch, "drop", version, free, held, sold, withdrawn, total)
        SELECT v_epoch, n.drop_id, n.version, n.free, n.held, n.sold, n.withdrawn, n.total FROM newer AS n;
    ELSIF TG_OP = 'UPDATE' THEN
        INSERT INTO witness.stock (epoch, "drop", before, version, free, held, sold, withdrawn, total)
        SELECT v_epoch, n.drop_id, o.version, n.version, n.free, n.held, n.sold, n.withdrawn, n.total
          FROM newer AS n LEFT JOIN older AS o USING (drop_id);
    ELSE
        INSERT INTO witness.stock (epoch, "drop", before)
        SELECT v_epoch, o.drop_id, o.version FROM older AS o;
    END IF;
    RETURN NULL;
END
$$;

CREATE FUNCTION witness.see_reservations() RETURNS trigger LANGUAGE plpgsql
    SET enable_nestloop = off SET enable_mergejoin = off SET enable_hashjoin = on AS $$
DECLARE
    v_epoch bigint := (SELECT engine_state.epoch FROM engine_state);
BEGIN
    IF TG_OP = 'INSERT' THEN
        INSERT INTO witness.reservations (epoch, "drop", id, request, attempt, buyer, after, quantity, units,
                                          amount_cents, expires)
        SELECT v_epoch, n.drop_id, n.id, n.request_id, n.attempt, n.buyer, n.state, n.quantity, n.units,
               n.amount_cents, n.expires_at
          FROM newer AS n;
    ELSIF TG_OP = 'UPDATE' THEN
        INSERT INTO witness.reservations (epoch, "drop", id, id_before, request, attempt, buyer, before, after,
                                          quantity, units, amount_cents, expires)
        SELECT v_epoch, n.drop_id, n.id, o.id, n.request_id, n.attempt, n.buyer, o.state, n.state, n.quantity,
               n.units, n.amount_cents, n.expires_at
          FROM newer AS n LEFT JOIN older AS o USING (request_id);
    ELSE
        INSERT INTO witness.reservations (epoch, "drop", id, request, attempt, buyer, before, quantity, units,
                                          amount_cents, expires)
        SELECT v_epoch, o.drop_id, o.id, o.request_id, o.attempt, o.buyer, o.state, o.quantity, o.units,
               o.amount_cents, o.expires_at
          FROM older AS o;
    END IF;
    RETURN NULL;
END
$$;

CREATE FUNCTION witness.see_purchases() RETURNS trigger LANGUAGE plpgsql
    SET enable_nestloop = off SET enable_mergejoin = off SET enable_hashjoin = on AS $$
DECLARE
    v_epoch bigint := (SELECT engine_state.epoch FROM engine_state);
BEGIN
    IF TG_OP = 'INSERT' THEN
        INSERT INTO witness.purchases (epoch, "drop", id, request, reservation, buyer, quantity, units, reference,
                                       bought, after)
        SELECT v_epoch, n.drop_id, n.id, n.request_id, n.reservation_id, n.buyer, n.quantity, n.units,
               n.payment_reference, n.purchased_at,
               CASE WHEN n.refunded_at IS NULL THEN 'purchased' ELSE 'refunded' END
          FROM newer AS n;
    ELSIF TG_OP = 'UPDATE' THEN
        INSERT INTO witness.purchases (epoch, "drop", id, request, reservation, buyer, quantity, units, reference,
                                       bought, before, after)
        SELECT v_epoch, n.drop_id, n.id, n.request_id, n.reservation_id, n.buyer, n.quantity, n.units,
               n.payment_reference, n.purchased_at, CASE WHEN o.refunded_at IS NULL THEN 'purchased' ELSE 'refunded' END,
               CASE WHEN n.refunded_at IS NULL THEN 'purchased' ELSE 'refunded' END
          FROM newer AS n LEFT JOIN older AS o USING (id);
    ELSE
        INSERT INTO witness.purchases (epoch, "drop", id, request, reservation, buyer, quantity, units, reference,
                                       bought, before)
        SELECT v_epoch, o.drop_id, o.id, o.request_id, o.reservation_id, o.buyer, o.quantity, o.units,
               o.payment_reference, o.purchased_at, CASE WHEN o.refunded_at IS NULL THEN 'purchased' ELSE 'refunded' END
          FROM older AS o;
    END IF;
    RETURN NULL;
END
$$;

CREATE FUNCTION witness.see_payments() RETURNS trigger LANGUAGE plpgsql
    SET enable_nestloop = off SET enable_mergejoin = off SET enable_hashjoin = on AS $$
DECLARE
    v_epoch bigint := (SELECT engine_state.epoch FROM engine_state);
BEGIN
    IF TG_OP = 'INSERT' THEN
        INSERT INTO witness.payments (epoch, reference, reservation, amount_cents, currency, after, outcome, reason)
        SELECT v_epoch, n.reference, n.reservation_id, n.amount_cents, n.currency, n.status, n.outcome, n.reason
          FROM newer AS n;
    ELSIF TG_OP = 'UPDATE' THEN
        INSERT INTO witness.payments (epoch, reference, reservation, amount_cents, currency, before, after, outcome,
                                      reason)
        SELECT v_epoch, n.reference, n.reservation_id, n.amount_cents, n.currency, o.status, n.status, n.outcome,
               n.reason
          FROM newer AS n LEFT JOIN older AS o USING (reference);
    ELSE
        INSERT INTO witness.payments (epoch, reference, reservation, amount_cents, currency, before, outcome, reason)
        SELECT v_epoch, o.reference, o.reservation_id, o.amount_cents, o.currency, o.status, o.outcome, o.reason
          FROM older AS o;
    END IF;
    RETURN NULL;
END
$$;

CREATE FUNCTION witness.see_refunds() RETURNS trigger LANGUAGE plpgsql
    SET enable_nestloop = off SET enable_mergejoin = off SET enable_hashjoin = on AS $$
DECLARE
    v_epoch bigint := (SELECT engine_state.epoch FROM engine_state);
BEGIN
    IF TG_OP = 'INSERT' THEN
        INSERT INTO witness.refunds (epoch, id, reference, reservation, amount_cents, reason, verified, after)
        SELECT v_epoch, n.id, n.reference, n.reservation_id, n.amount_cents, n.reason, n.verified,
               CASE WHEN n.done_at IS NULL THEN 'due' ELSE 'done' END
          FROM newer AS n;
    ELSIF TG_OP = 'UPDATE' THEN
        INSERT INTO witness.refunds (epoch, id, reference, reservation, amount_cents, reason, verified, before, after)
        SELECT v_epoch, n.id, n.reference, n.reservation_id, n.amount_cents, n.reason, n.verified,
               CASE WHEN o.done_at IS NULL THEN 'due' ELSE 'done' END,
               CASE WHEN n.done_at IS NULL THEN 'due' ELSE 'done' END
          FROM newer AS n LEFT JOIN older AS o USING (id);
    ELSE
        INSERT INTO witness.refunds (epoch, id, reference, reservation, amount_cents, reason, verified, before)
        SELECT v_epoch, o.id, o.reference, o.reservation_id, o.amount_cents, o.reason, o.verified,
               CASE WHEN o.done_at IS NULL THEN 'due' ELSE 'done' END
          FROM older AS o;
    END IF;
    RETURN NULL;
END
$$;

CREATE FUNCTION witness.see_outbox() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO witness.outbox (epoch, "drop", id, told, version, kind, subjects)
    SELECT e.epoch, n.drop_id, n.id, n.epoch, n.version, n.kind, n.subjects
      FROM newer AS n CROSS JOIN engine_state AS e;
    RETURN NULL;
END
$$;

-- The triggers: an insert, an update and a delete each need their own, to have both tables.
DO $$
DECLARE
    v_table text;
BEGIN
    FOREACH v_table IN ARRAY ARRAY['units', 'stock', 'reservations', 'purchases', 'payments', 'refunds'] LOOP
        EXECUTE format('CREATE TRIGGER witness_insert AFTER INSERT ON %1$I REFERENCING NEW TABLE AS newer'
                       ' FOR EACH STATEMENT EXECUTE FUNCTION witness.see_%1$s()', v_table);
        EXECUTE format('CREATE TRIGGER witness_update AFTER UPDATE ON %1$I REFERENCING OLD TABLE AS older'
                       ' NEW TABLE AS newer FOR EACH STATEMENT EXECUTE FUNCTION witness.see_%1$s()', v_table);
        EXECUTE format('CREATE TRIGGER witness_delete AFTER DELETE ON %1$I REFERENCING OLD TABLE AS older'
                       ' FOR EACH STATEMENT EXECUTE FUNCTION witness.see_%1$s()', v_table);
    END LOOP;
    CREATE TRIGGER witness_insert AFTER INSERT ON drops REFERENCING NEW TABLE AS newer
        FOR EACH STATEMENT EXECUTE FUNCTION witness.see_drops();
    CREATE TRIGGER witness_update AFTER UPDATE ON drops REFERENCING NEW TABLE AS newer
        FOR EACH STATEMENT EXECUTE FUNCTION witness.see_drops();
    CREATE TRIGGER witness_insert AFTER INSERT ON outbox REFERENCING NEW TABLE AS newer
        FOR EACH STATEMENT EXECUTE FUNCTION witness.see_outbox();
END
$$;

-- What was there before; the triggers' locks keep others from changing it meanwhile.
INSERT INTO witness.arrival DEFAULT VALUES;

INSERT INTO witness.drops (epoch, "drop", max_per_buyer, max_per_order, total_stock, hold_seconds, paused, ready,
                           starts, ends)
SELECT e.epoch, d.id, d.max_per_buyer, d.max_per_order, d.total_stock, d.hold_seconds, d.paused_reason,
       d.prepared_at IS NOT NULL, d.starts_at, d.ends_at
  FROM drops AS d CROSS JOIN engine_state AS e;

INSERT INTO witness.units (epoch, "drop", number, after)
SELECT e.epoch, u.drop_id, u.number, u.state FROM units AS u CROSS JOIN engine_state AS e;

INSERT INTO witness.reservations (epoch, "drop", id, request, attempt, buyer, after, quantity, units, amount_cents,
                                  expires)
SELECT e.epoch, r.drop_id, r.id, r.request_id, r.attempt, r.buyer, r.state, r.quantity, r.units, r.amount_cents,
       r.expires_at
  FROM reservations AS r CROSS JOIN engine_state AS e;

INSERT INTO witness.purchases (epoch, "drop", id, request, reservation, buyer, quantity, units, reference, bought,
                               after)
SELECT e.epoch, b.drop_id, b.id, b.request_id, b.reservation_id, b.buyer, b.quantity, b.units, b.payment_reference,
       b.purchased_at, CASE WHEN b.refunded_at IS NULL THEN 'purchased' ELSE 'refunded' END
  FROM purchases AS b CROSS JOIN engine_state AS e;

INSERT INTO witness.payments (epoch, reference, reservation, amount_cents, currency, after, outcome, reason)
SELECT e.epoch, p.reference, p.reservation_id, p.amount_cents, p.currency, p.status, p.outcome, p.reason
  FROM payments AS p CROSS JOIN engine_state AS e;

INSERT INTO witness.refunds (epoch, id, reference, reservation, amount_cents, reason, verified, after)
SELECT e.epoch, f.id, f.reference, f.reservation_id, f.amount_cents, f.reason, f.verified,
       CASE WHEN f.done_at IS NULL THEN 'due' ELSE 'done' END
  FROM refunds AS f CROSS JOIN engine_state AS e;

INSERT INTO witness.stock (epoch, "drop", version, free, held, sold, withdrawn, total)
SELECT e.epoch, s.drop_id, s.version, s.free, s.held, s.sold, s.withdrawn, s.total
  FROM stock AS s CROSS JOIN engine_state AS e;
