-- What operators need: stock that grows in mid-sale, limits that change, proofs, and who keeps watch.

-- A drop whose shelf was full once stays on sale while more units are put on it.
ALTER TABLE drops ADD COLUMN prepared_at timestamptz;
UPDATE drops
   SET prepared_at = drops.created_at
  FROM stock
 WHERE stock.drop_id = drops.id AND stock.total = drops.total_stock;

-- The highest limit that was ever in force, null if there once was none. A limit that is lowered
-- later takes nothing from anybody, so an audit must not call it broken.
ALTER TABLE drops ADD COLUMN most_per_buyer integer;
UPDATE drops SET most_per_buyer = max_per_buyer;

-- When a hold was bought, given back or swept. Null while it is live.
ALTER TABLE reservations ADD COLUMN ended_at timestamptz;

-- The newest full recount of each drop's rows; no problems: it added up.
CREATE TABLE proofs (
    drop_id    bigint PRIMARY KEY,
    version    bigint      NOT NULL,
    proven_at  timestamptz NOT NULL,
    problems   text[]      NOT NULL
);

-- While Redis is away for some worker, its claims leave no intents, and a copy of one can be
-- found by nobody. Until this moment a refusal must stop copies instead of looking for them.
ALTER TABLE engine_state ADD COLUMN direct_until timestamptz NOT NULL DEFAULT '-infinity';

-- Keeper processes, each of which writes its row every second.
CREATE TABLE keepers (
    id          uuid PRIMARY KEY,
    started_at  timestamptz NOT NULL DEFAULT clock_timestamp(),
    beat_at     timestamptz NOT NULL DEFAULT clock_timestamp()
) WITH (fillfactor = 50);

-- What only one process need do. It saves work and guards nothing: two at once do no harm.
CREATE TABLE leases (
    name    text PRIMARY KEY,
    holder  uuid        NOT NULL,
    until   timestamptz NOT NULL
) WITH (fillfactor = 50);
