-- Paying: holds that know of it, what a provider tells us, and what we owe back.

ALTER TYPE reservation_state ADD VALUE 'refunded';  -- purchased -> refunded: by an operator alone

-- How long a buyer has to pay once payment has begun, on top of the hold.
ALTER TABLE drops ADD COLUMN pay_seconds integer NOT NULL DEFAULT 600;

-- Both happen once in a hold's life.
ALTER TABLE reservations ADD COLUMN extended_at timestamptz;
ALTER TABLE reservations ADD COLUMN paying_at timestamptz;

-- Its buyer named no payment, and the first that came was it.
ALTER TABLE purchases ADD COLUMN adopted boolean NOT NULL DEFAULT false;
ALTER TABLE purchases ADD COLUMN refunded_at timestamptz;
ALTER TABLE purchases ADD COLUMN refund_reason text;
ALTER TABLE purchases ADD COLUMN restocked boolean;

-- In the order in which one may follow another: what is heard late never undoes what came after it.
CREATE TYPE payment_state AS ENUM ('pending', 'failed', 'succeeded', 'refunded');

-- The newest word of the provider about each payment, and what it came to here.
CREATE TABLE payments (
    reference       text COLLATE "C" PRIMARY KEY,
    reservation_id  uuid,
    amount_cents    bigint        NOT NULL,
    received_at     timestamptz   NOT NULL DEFAULT clock_timestamp(),
    changed_at      timestamptz   NOT NULL DEFAULT clock_timestamp(),
    status          payment_state NOT NULL,
    currency        text          NOT NULL,
    outcome         text,
    reason          text,

    CONSTRAINT money_that_came_is_kept_or_owed CHECK (outcome IN ('purchased', 'refund_due')),
    CONSTRAINT what_is_owed_has_a_reason CHECK ((outcome = 'refund_due') = (reason IS NOT NULL))
);

-- For find_payments_of_hold.
CREATE INDEX payments_by_reservation ON payments (reservation_id);

-- For undecided_payments: money that came, of which nothing was made yet.
CREATE INDEX payments_undecided ON payments (changed_at) WHERE status = 'succeeded' AND outcome IS NULL;

-- Money that we must give back; verified, if a provider said that it came.
CREATE TABLE refunds (
    id              bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    reservation_id  uuid,
    drop_id         bigint,
    amount_cents    bigint      NOT NULL,
    due_at          timestamptz NOT NULL DEFAULT clock_timestamp(),
    done_at         timestamptz,
    verified        boolean     NOT NULL,
    reference       text COLLATE "C",
    currency        text        NOT NULL,
    buyer           text COLLATE "C",
    reason          text        NOT NULL
);

-- One payment is owed back at most once for one hold, however often we hear of it.
CREATE UNIQUE INDEX refunds_one_per_payment ON refunds (reference, reservation_id) NULLS NOT DISTINCT;

-- For count_refunds_due and list_refunds: what is still owed.
CREATE INDEX refunds_due ON refunds (due_at) WHERE done_at IS NULL;
