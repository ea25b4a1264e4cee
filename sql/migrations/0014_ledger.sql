-- The ledger: what was sold, refunded and booked, chained and signed, so that whoever changes it afterwards is found
-- out. It is written behind the sale by one sealer at a time, from `records`.

-- A link of the chain: one entry (bookings), or one block of up to 4,096 records (purchases, refunds).
CREATE TABLE ledger_links (
    height         bigint      PRIMARY KEY,
    is_block       boolean     NOT NULL,
    first_sequence bigint      NOT NULL,
    records        integer     NOT NULL,
    root           bytea       NOT NULL,  -- RFC 6962, over the leaves of its records
    previous_hash  text        NOT NULL,
    data_hash      text        NOT NULL,  -- HMAC-SHA256 of the entry's content, or of the block's head
    nonce          integer     NOT NULL,
    key_id         text        NOT NULL,  -- of the HMAC key
    sealed_at      timestamptz NOT NULL,
    -- The lock of the head row keeps the chain from forking; this would stop a sealer without it.
    CONSTRAINT a_link_has_one_successor UNIQUE (previous_hash),
    CONSTRAINT a_block_has_between_one_and_4096_records CHECK (records BETWEEN 1 AND 4096)
);

-- One row a record. Its content stays as it was hashed: what was sealed can be shown when the row that it tells of
-- was changed since. Of its subject only a salted hash is kept.
CREATE TABLE ledger_entries (
    sequence    bigint      PRIMARY KEY,
    height      bigint      NOT NULL,
    action      text        NOT NULL,
    subject_id  uuid,
    subject     text        NOT NULL,
    recorded_at timestamptz NOT NULL,
    leaf        bytea       NOT NULL,
    content     text        NOT NULL
);

-- For find_sequences and list_missing.
CREATE INDEX ledger_entries_by_subject ON ledger_entries (subject_id);

-- The history tree over all links (RFC 6962): roots of its perfect subtrees, which never change again. A proof needs
-- about twenty of them, however long the chain is.
CREATE TABLE ledger_nodes (
    level integer NOT NULL,
    place bigint  NOT NULL,
    hash  bytea   NOT NULL,
    PRIMARY KEY (level, place)
);

-- Where the chain ends; its row is the sealers' lock. It is signed, so that a tail that was cut off is missed.
CREATE TABLE ledger_head (
    only_row    boolean     PRIMARY KEY DEFAULT true,
    height      bigint      NOT NULL DEFAULT 0,
    sequence    bigint      NOT NULL DEFAULT 0,
    data_hash   text        NOT NULL DEFAULT repeat('0', 64),
    peaks       bytea[]     NOT NULL DEFAULT '{}',
    root        bytea       NOT NULL DEFAULT sha256(''),
    hmac_key    text,
    signing_key text,
    signature   bytea,
    sealed_at   timestamptz NOT NULL DEFAULT clock_timestamp(),
    CONSTRAINT there_is_one_ledger CHECK (only_row),
    CONSTRAINT a_head_is_signed CHECK (height = 0 OR signature IS NOT NULL)
) WITH (fillfactor = 50);

INSERT INTO ledger_head DEFAULT VALUES;

-- Which keys were in force from which link on; never a secret. A key that follows another is vouched for by that one.
CREATE TABLE ledger_keys (
    hmac_key    text        NOT NULL,
    signing_key text        NOT NULL,
    public_key  bytea       NOT NULL,
    since       bigint      NOT NULL,
    voucher     bytea,
    made_at     timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (hmac_key, signing_key)
);

-- What makes a buyer's hash his. To erase him from the ledger is to delete his row; should he come back, the salt is
-- another, and counts for what is sealed from then on.
CREATE TABLE ledger_salts (
    buyer text COLLATE "C" PRIMARY KEY,
    salt  bytea  NOT NULL,
    since bigint NOT NULL
);

-- The last look at the whole chain, for all workers: one looks, the others tell. The mac is theirs, so that a verdict
-- written past them is none.
CREATE TABLE ledger_checks (
    only_row boolean     PRIMARY KEY DEFAULT true,
    runner   uuid,
    beat_at  timestamptz NOT NULL DEFAULT '-infinity',
    checked  bigint      NOT NULL DEFAULT 0,
    entries  bigint      NOT NULL DEFAULT 0,
    ended_at timestamptz NOT NULL DEFAULT '-infinity',
    verdict  text,
    mac      text,
    CONSTRAINT there_is_one_look CHECK (only_row)
) WITH (fillfactor = 50);

INSERT INTO ledger_checks DEFAULT VALUES;

-- What was sold before there was a ledger is recorded now, in its order, so that from here on every purchase has its
-- record. Purchases that are being made wait until this is done.
LOCK TABLE purchases, records IN SHARE ROW EXCLUSIVE MODE;

INSERT INTO records (action, drop_id, subjects)
SELECT f.action, min(f.drop_id), array_agg(f.id ORDER BY f.at, f.id)
  FROM (SELECT every.*, row_number() OVER (PARTITION BY every.action ORDER BY every.at, every.id) / 1000 AS slice
          FROM (SELECT 'PURCHASED' AS action, p.drop_id, p.id, p.purchased_at AS at FROM purchases AS p
                UNION ALL
                SELECT 'REFUNDED', p.drop_id, p.id, p.refunded_at FROM purchases AS p
                 WHERE p.refunded_at IS NOT NULL) AS every
         WHERE NOT EXISTS (SELECT FROM bookings AS b WHERE b.purchase_id = every.id)
           AND NOT EXISTS (SELECT FROM records AS r WHERE r.action = every.action AND every.id = ANY (r.subjects))) AS f
 GROUP BY f.action, f.slice
 ORDER BY f.action, f.slice;
