-- Against hoarding: who lets holds run out, or gives them back, waits before the next one.

-- How many times the time it was held, a unit; 0: nobody waits.
ALTER TABLE drops
    ADD COLUMN cooldown_factor integer NOT NULL DEFAULT 0,
    ADD CONSTRAINT a_cool_down_lasts_0_to_1000_times_a_hold CHECK (cooldown_factor BETWEEN 0 AND 1000);

-- For cool_down and end_cool_downs: where no drop has one, they end here.
CREATE INDEX drops_that_cool ON drops (id) WHERE cooldown_factor > 0;

-- Holds in a row that were not bought, and until when the buyer waits for it; null: never did.
ALTER TABLE allowances
    ADD COLUMN abandoned integer NOT NULL DEFAULT 0,
    ADD COLUMN cools_until timestamptz;
