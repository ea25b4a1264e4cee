-- Named units: seats, slots, numbered memberships that a buyer picks himself. A named unit is a unit like any
-- other, on the shelf while nobody has it, with a name, and with its neighbours beside it: its position is its number.
-- What is not listed is sold like any other, but a shop's page does not show it: a freezer has a board of its own.
ALTER TABLE drops
    ADD COLUMN pick text NOT NULL DEFAULT 'any',
    ADD COLUMN listed boolean NOT NULL DEFAULT true,
    ADD CONSTRAINT units_are_any_or_named CHECK (pick IN ('any', 'named'));

-- Never changed and never removed: workers remember them.
CREATE TABLE unit_names (
    drop_id  bigint  NOT NULL,
    number   integer NOT NULL,
    name     text COLLATE "C" NOT NULL,
    PRIMARY KEY (drop_id, number),
    CONSTRAINT a_name_names_one_unit UNIQUE (drop_id, name)
);

-- Who has a named unit now, holding or bought: for a seat map, which asks of a unit and not of a hold. The
-- key says once more what the shelf says already: one unit, one live owner.
CREATE TABLE picks (
    drop_id        bigint  NOT NULL,
    number         integer NOT NULL,
    reservation_id uuid    NOT NULL,
    CONSTRAINT a_named_unit_has_one_live_owner PRIMARY KEY (drop_id, number)
);

-- What the ledger has to record, written in the transaction of the fact; gone when it is sealed. A row may be
-- about many subjects (purchases of one batch), so that a rush pays for one row a batch. What is sealed
-- entry by entry (bookings) brings its content in arrays beside `subjects`; of others they are null.
CREATE TABLE records (
    id        bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    action    text        NOT NULL,
    drop_id   bigint      NOT NULL,
    subjects  uuid[]      NOT NULL,
    slots     bigint[],
    manifests text[],
    buyers    text[],
    made_at   timestamptz NOT NULL DEFAULT clock_timestamp()
);

-- The cold chain: a slot is a named unit with a condition.
CREATE TABLE slots (
    drop_id          bigint       NOT NULL,
    number           integer      NOT NULL,
    target_temp      numeric(6,2) NOT NULL,
    temperature      numeric(6,2) NOT NULL,
    temp_status      text         NOT NULL DEFAULT 'NORMAL',
    measured_at      timestamptz  NOT NULL DEFAULT clock_timestamp(),
    last_maintenance timestamptz  NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (drop_id, number),
    CONSTRAINT a_temperature_is_normal_or_not CHECK (temp_status IN ('NORMAL', 'WARNING', 'CRITICAL'))
);

-- A week is thrown away as a whole; functions/partition_readings.sql makes the weeks.
CREATE TABLE readings (
    drop_id     bigint       NOT NULL,
    number      integer      NOT NULL,
    temperature numeric(6,2) NOT NULL,
    recorded_at timestamptz  NOT NULL,
    request_id  uuid         NOT NULL
) PARTITION BY RANGE (recorded_at);

CREATE INDEX readings_by_slot ON readings (drop_id, number, recorded_at DESC);

-- What was sent twice is written once: whoever writes a slot's readings has its row in his hands.
CREATE INDEX readings_by_request ON readings (request_id);

-- A purchase of a slot, and what is stored there.
CREATE TABLE bookings (
    id             uuid        PRIMARY KEY,
    purchase_id    uuid        NOT NULL UNIQUE,
    reservation_id uuid        NOT NULL UNIQUE,
    drop_id        bigint      NOT NULL,
    number         integer     NOT NULL,
    buyer          text COLLATE "C" NOT NULL,
    manifest_id    text        NOT NULL,
    priority       text        NOT NULL DEFAULT 'STANDARD',
    vaccine_type   text,
    batch_number   text,
    quantity       integer,
    confirmed_at   timestamptz NOT NULL,
    released_at    timestamptz,
    CONSTRAINT a_priority_is_known CHECK (priority IN ('STANDARD', 'PRIORITY', 'EMERGENCY')),
    CONSTRAINT a_quantity_is_positive CHECK (quantity > 0)
);

-- One open booking a slot.
CREATE UNIQUE INDEX bookings_one_open_a_slot ON bookings (drop_id, number) WHERE released_at IS NULL;

-- Functions with another parameter: both would stand side by side, and no call would know which is meant.
DROP FUNCTION IF EXISTS claim_units_singly(bigint, bigint, uuid[], bigint[], uuid[], text[], integer[]);
DROP FUNCTION IF EXISTS purchase_units(uuid[], uuid[], uuid[], text[], text[]);
DROP FUNCTION IF EXISTS sell_holds(uuid[], uuid[], uuid[], text[], timestamptz);
