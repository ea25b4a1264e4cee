-- Membership: scarce numbers, minted once per receipt. A number is a unit of a drop like any other, but of a third
-- kind: whoever presents a receipt gets one, in one transaction with the receipt, and nobody can hold one.
ALTER TABLE drops DROP CONSTRAINT units_are_any_or_named;
ALTER TABLE drops ADD CONSTRAINT units_are_any_named_or_minted CHECK (pick IN ('any', 'named', 'minted')) NOT VALID;
ALTER TABLE drops VALIDATE CONSTRAINT units_are_any_named_or_minted;

-- Functions with another parameter: both would stand side by side, and no call would know which is meant.
DROP FUNCTION IF EXISTS claim_units(bigint, bigint, uuid[], bigint[], uuid[], text[], integer[], uuid[], text[], integer[]);
DROP FUNCTION IF EXISTS claim_units_singly(bigint, bigint, uuid[], bigint[], uuid[], text[], integer[], integer[]);

-- What the numbers of a drop are: members of a tier, of a year. Neither is ever changed: a pass says both.
CREATE TABLE membership_drops (
    drop_id bigint PRIMARY KEY REFERENCES drops,
    tier    text NOT NULL,
    year    text NOT NULL,
    CONSTRAINT a_tier_has_one_drop_a_year UNIQUE (tier, year)
);

-- One row is one purchase somewhere else, presented here: the transaction where it is known, else the receipt's
-- text. Its id is the request of its claim, so `reservations` knows it as well. From `pending` on exactly one of
-- the others follows; `failed` gave nothing, and may be presented again. No foreign keys here and in the next two, as in
-- all that a rush writes: what they would check is one statement's work (mint_units, present_receipts).
CREATE TABLE receipts (
    id                      uuid        PRIMARY KEY,
    drop_id                 bigint      NOT NULL,
    buyer                   text COLLATE "C" NOT NULL,
    original_transaction_id text COLLATE "C",
    state                   text        NOT NULL DEFAULT 'pending',
    attempts                integer     NOT NULL DEFAULT 1,
    membership_id           uuid,
    error                   text,       -- the code that a failed one was answered with
    created_at              timestamptz NOT NULL DEFAULT clock_timestamp(),
    changed_at              timestamptz NOT NULL DEFAULT clock_timestamp(),
    CONSTRAINT a_transaction_has_one_receipt UNIQUE (original_transaction_id),
    CONSTRAINT a_receipt_is_pending_fulfilled_or_failed CHECK (state IN ('pending', 'fulfilled', 'failed')),
    CONSTRAINT what_is_fulfilled_says_by_what CHECK ((state = 'fulfilled') = (membership_id IS NOT NULL)),
    CONSTRAINT what_failed_says_why CHECK ((state = 'failed') = (error IS NOT NULL))
);

-- For the keeper that gives up what a dead worker left.
CREATE INDEX receipts_pending ON receipts (changed_at) WHERE state = 'pending';

-- SHA-256 of every text that was presented for it: a store may write a receipt anew for the same transaction.
CREATE TABLE receipt_hashes (
    hash       bytea PRIMARY KEY,
    receipt_id uuid  NOT NULL
);

-- Its id is that of its reservation and of its purchase: all three are one thing. That a receipt has one is said by the
-- reservation's request, which is the receipt and is unique.
CREATE TABLE memberships (
    id            uuid        PRIMARY KEY,
    receipt_id    uuid        NOT NULL,
    drop_id       bigint      NOT NULL,
    number        integer     NOT NULL,
    buyer         text COLLATE "C" NOT NULL,
    minted_at     timestamptz NOT NULL,
    changed_at    timestamptz NOT NULL,  -- what a pass shows of it: for If-Modified-Since
    revoked_at    timestamptz,
    revoke_reason text
);

CREATE UNIQUE INDEX memberships_one_live_a_number ON memberships (drop_id, number) WHERE revoked_at IS NULL;
CREATE INDEX memberships_by_buyer ON memberships (buyer, id);
CREATE INDEX memberships_revoked ON memberships (revoked_at) WHERE revoked_at IS NOT NULL;

-- A key of a member's own device. One is active; those before it stay as history.
CREATE TABLE membership_devices (
    id            uuid        PRIMARY KEY,
    membership_id uuid        NOT NULL REFERENCES memberships,
    device_id     text        NOT NULL,  -- what the device calls itself
    public_key    text        NOT NULL,  -- PEM (SPKI) of a P-256 key
    registered_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    revoked_at    timestamptz
);

CREATE UNIQUE INDEX membership_devices_one_active ON membership_devices (membership_id) WHERE revoked_at IS NULL;
CREATE INDEX membership_devices_by_membership ON membership_devices (membership_id, registered_at);

-- A wish to move a membership to another device. What is mailed is derived from its id (HMAC); its digest is here, so
-- that whoever reads this table can use none.
CREATE TABLE reforges (
    id             uuid        PRIMARY KEY,
    membership_id  uuid        NOT NULL REFERENCES memberships,
    buyer          text COLLATE "C" NOT NULL,
    old_device_id  text        NOT NULL,
    new_device_id  text        NOT NULL,
    new_public_key text        NOT NULL,
    token_hash     bytea       NOT NULL UNIQUE,
    state          text        NOT NULL DEFAULT 'pending',
    created_at     timestamptz NOT NULL DEFAULT clock_timestamp(),
    expires_at     timestamptz NOT NULL,
    ended_at       timestamptz,
    CONSTRAINT a_reforge_is_pending_or_over CHECK (state IN ('pending', 'confirmed', 'superseded', 'expired')),
    CONSTRAINT what_is_over_says_since_when CHECK ((state = 'pending') = (ended_at IS NULL))
);

CREATE UNIQUE INDEX reforges_one_pending ON reforges (membership_id) WHERE state = 'pending';
CREATE INDEX reforges_by_membership ON reforges (membership_id, created_at);

-- Two members who met. A token's jti counts once for whoever made it: nobody can use up another's.
CREATE TABLE encounters (
    id             uuid        PRIMARY KEY,
    jti            text        NOT NULL,
    initiator_id   uuid        NOT NULL REFERENCES memberships,
    receiver_id    uuid        NOT NULL REFERENCES memberships,
    latitude       double precision,
    longitude      double precision,
    encountered_at timestamptz NOT NULL,  -- what the token says
    verified_at    timestamptz NOT NULL DEFAULT clock_timestamp(),
    CONSTRAINT nobody_meets_himself CHECK (initiator_id <> receiver_id),
    CONSTRAINT a_place_is_on_earth CHECK (latitude BETWEEN -90 AND 90 AND longitude BETWEEN -180 AND 180)
);

CREATE UNIQUE INDEX encounters_one_a_token ON encounters (initiator_id, jti);
CREATE INDEX encounters_by_initiator ON encounters (initiator_id, id);
CREATE INDEX encounters_by_receiver ON encounters (receiver_id, id);

-- Wallets that want to hear of changes of a pass.
CREATE TABLE pass_registrations (
    device_library_id text        NOT NULL,
    membership_id     uuid        NOT NULL REFERENCES memberships,
    push_token        text        NOT NULL,
    registered_at     timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (device_library_id, membership_id)
);

CREATE INDEX pass_registrations_by_membership ON pass_registrations (membership_id, registered_at);

ALTER TABLE mails DROP CONSTRAINT a_mail_is_of_a_known_kind;
ALTER TABLE mails ADD CONSTRAINT a_mail_is_of_a_known_kind CHECK (kind IN ('password_reset', 'reforge'));
