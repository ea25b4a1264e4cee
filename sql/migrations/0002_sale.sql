-- Drops, their units, and what becomes of them. Postgres alone decides.

CREATE TYPE unit_state AS ENUM (
    'free',       -- nobody's
    'held',       -- free -> held: one reservation's until its deadline
    'sold',       -- held -> sold: final, but for a refund
    'withdrawn'   -- free -> withdrawn: taken off sale by its owner
);

CREATE TYPE reservation_state AS ENUM (
    'aborted',    -- a tombstone: this attempt was given up before it took anything
    'active',     -- a live hold
    'paying',     -- active -> paying: payment has begun
    'purchased',  -- active | paying -> purchased: final, but for a refund
    'expired',    -- active | paying -> expired: the deadline passed
    'released'    -- active | paying -> released: given back
);

CREATE TABLE drops (
    id                bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name              text        NOT NULL,
    price_cents       bigint      NOT NULL,
    currency          text        NOT NULL,
    image_url         text,
    starts_at         timestamptz NOT NULL,
    ends_at           timestamptz,
    hold_seconds      integer     NOT NULL,
    max_hold_seconds  integer     NOT NULL,
    max_per_buyer     integer,
    max_per_order     integer     NOT NULL,
    total_stock       integer     NOT NULL,
    paused_reason     text,
    terms_version     bigint      NOT NULL DEFAULT 1,
    created_at        timestamptz NOT NULL DEFAULT clock_timestamp(),

    CONSTRAINT a_price_is_not_negative CHECK (price_cents >= 0),
    CONSTRAINT a_drop_has_between_one_and_a_million_units CHECK (total_stock BETWEEN 1 AND 1000000),
    CONSTRAINT a_drop_ends_after_it_starts CHECK (ends_at IS NULL OR ends_at >= starts_at),
    CONSTRAINT a_pause_has_a_known_reason CHECK (paused_reason IN ('admin', 'audit'))
);

-- One row a drop, the last row every transaction locks. It is read and written by each batch,
-- so pages keep room for HOT updates and no index may name its figures.
CREATE TABLE stock (
    drop_id     bigint PRIMARY KEY,
    version     bigint  NOT NULL DEFAULT 0,
    free        integer NOT NULL DEFAULT 0,
    held        integer NOT NULL DEFAULT 0,
    sold        integer NOT NULL DEFAULT 0,
    withdrawn   integer NOT NULL DEFAULT 0,
    total       integer NOT NULL DEFAULT 0,
    head        bigint  NOT NULL DEFAULT 0,
    changed_at  timestamptz NOT NULL DEFAULT clock_timestamp(),

    CONSTRAINT no_figure_is_negative CHECK (free >= 0 AND held >= 0 AND sold >= 0 AND withdrawn >= 0),
    CONSTRAINT every_unit_is_somewhere CHECK (free + held + sold + withdrawn = total)
) WITH (fillfactor = 10, autovacuum_vacuum_threshold = 500, autovacuum_vacuum_scale_factor = 0);

-- Units stand in a queue by position: shuffled at first, at the end when they come back. So a
-- claim may start its scan at stock.head, and what lies before it is never walked again.
CREATE TABLE units (
    drop_id         bigint     NOT NULL,
    number          integer    NOT NULL,
    position        bigint     NOT NULL,
    state           unit_state NOT NULL DEFAULT 'free',
    reservation_id  uuid,

    PRIMARY KEY (drop_id, number),
    CONSTRAINT only_held_and_sold_units_have_an_owner
        CHECK ((state IN ('held', 'sold')) = (reservation_id IS NOT NULL))
) WITH (autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_cost_delay = 0);

-- For claim_units: only free units, so it shrinks as the drop sells.
CREATE INDEX units_free_by_position ON units (drop_id, position) WHERE state = 'free';

-- Shuffled positions are below 2^48; units that come back queue behind all of them.
CREATE SEQUENCE unit_positions START 281474976710656;

CREATE TABLE reservations (
    id            uuid              PRIMARY KEY,
    request_id    uuid              NOT NULL,
    attempt       bigint            NOT NULL,
    drop_id       bigint            NOT NULL,
    amount_cents  bigint            NOT NULL,
    created_at    timestamptz       NOT NULL,
    expires_at    timestamptz       NOT NULL,
    quantity      integer           NOT NULL,
    available     integer           NOT NULL,
    state         reservation_state NOT NULL,
    buyer         text COLLATE "C"  NOT NULL,
    units         integer[]         NOT NULL,

    CONSTRAINT a_hold_has_the_units_it_asked_for
        CHECK (state = 'aborted' OR cardinality(units) = quantity)
) WITH (fillfactor = 90, autovacuum_vacuum_scale_factor = 0.05, autovacuum_vacuum_cost_delay = 0);

-- One request, at most one hold. Also what a tombstone waits on.
CREATE UNIQUE INDEX reservations_one_per_request ON reservations (request_id);

-- For due_drops, next_deadline and expire_holds: only live holds, oldest deadline first.
CREATE INDEX reservations_by_deadline ON reservations (expires_at) WHERE state IN ('active', 'paying');

-- For list_reservations and the hold named in LIMIT_REACHED.
CREATE INDEX reservations_by_buyer ON reservations (buyer, id);

-- Units a buyer holds or bought of a drop: the limit is kept here, under this row's lock.
CREATE TABLE allowances (
    drop_id  bigint           NOT NULL,
    buyer    text COLLATE "C" NOT NULL,
    used     integer          NOT NULL,

    PRIMARY KEY (drop_id, buyer),
    CONSTRAINT nobody_uses_less_than_nothing CHECK (used >= 0)
);

CREATE TABLE purchases (
    id                 uuid             PRIMARY KEY,
    request_id         uuid             NOT NULL,
    reservation_id     uuid             NOT NULL,
    drop_id            bigint           NOT NULL,
    amount_cents       bigint           NOT NULL,
    purchased_at       timestamptz      NOT NULL,
    quantity           integer          NOT NULL,
    buyer              text COLLATE "C" NOT NULL,
    units              integer[]        NOT NULL,
    payment_reference  text
);

-- One request, at most one purchase.
CREATE UNIQUE INDEX purchases_one_per_request ON purchases (request_id);

-- One hold is bought at most once.
CREATE UNIQUE INDEX purchases_one_per_reservation ON purchases (reservation_id);

-- For the three newest buyers of a drop.
CREATE INDEX purchases_by_drop ON purchases (drop_id, purchased_at DESC);

-- For list_purchases.
CREATE INDEX purchases_by_buyer ON purchases (buyer, id);
