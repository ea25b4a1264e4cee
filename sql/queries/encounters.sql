-- name: find_encounter_key :one
-- The key that a membership signs with, if it has a device, and what time it is.
-- Index  membership_devices_one_active
SELECT clock_timestamp() AS now, d.id AS device, d.public_key
  FROM (SELECT @initiator::uuid AS membership) AS asked
  LEFT JOIN membership_devices AS d ON d.membership_id = asked.membership AND d.revoked_at IS NULL;

-- name: record_encounter :one
-- Record an encounter if nobody did, both live, and the initiator's key is still that device's (null: it has none).
-- Whoever ends a membership, or moves it to another device, meanwhile is waited for, and then seen. No id: why not.
-- Locks  both memberships, by id (FOR SHARE); the initiator's device
-- Index  memberships_pkey, membership_devices_one_active, encounters_one_a_token
WITH alive AS MATERIALIZED (
    SELECT m.id
      FROM memberships AS m
     WHERE m.id IN (@initiator::uuid, @receiver::uuid) AND m.revoked_at IS NULL
     ORDER BY m.id
       FOR SHARE
), device AS MATERIALIZED (
    SELECT d.id
      FROM membership_devices AS d
     WHERE d.membership_id = @initiator AND d.revoked_at IS NULL AND (SELECT count(*) FROM alive) >= 0
       FOR SHARE
), judged AS MATERIALIZED (
    SELECT @buyer::text IS NULL OR EXISTS (SELECT FROM memberships AS m
                                            WHERE m.id IN (@initiator, @receiver) AND m.buyer = @buyer) AS theirs,
           EXISTS (SELECT FROM encounters AS e WHERE e.initiator_id = @initiator AND e.jti = @jti) AS known,
           EXISTS (SELECT FROM alive WHERE alive.id = @initiator) AS initiator_lives,
           (SELECT device.id FROM device) IS NOT DISTINCT FROM @device::uuid AS same_device,
           EXISTS (SELECT FROM alive WHERE alive.id = @receiver) AS receiver_lives
), made AS (
    INSERT INTO encounters (id, jti, initiator_id, receiver_id, latitude, longitude, encountered_at)
    SELECT @id::uuid, @jti, @initiator, @receiver, @latitude::float8, @longitude::float8, to_timestamp(@iat::float8)
      FROM judged AS j
     WHERE j.theirs AND NOT j.known AND j.initiator_lives AND j.same_device AND j.receiver_lives
    ON CONFLICT (initiator_id, jti) DO NOTHING
    RETURNING id, encountered_at, verified_at
)
SELECT j.theirs, j.known, j.initiator_lives, j.same_device, j.receiver_lives, made.id, made.encountered_at,
       made.verified_at
  FROM judged AS j LEFT JOIN made ON true;

-- name: list_encounters :many
-- The encounters of all memberships of a buyer, in either role, the newest first, before a cursor.
-- Index  memberships_by_buyer, encounters_by_initiator, encounters_by_receiver
WITH own AS MATERIALIZED (
    SELECT m.id FROM memberships AS m WHERE m.buyer = @buyer
), found AS (
    SELECT e.* FROM own CROSS JOIN LATERAL (
        SELECT * FROM encounters AS e
         WHERE e.initiator_id = own.id AND e.id < coalesce(@before::uuid, 'ffffffff-ffff-ffff-ffff-ffffffffffff')
         ORDER BY e.id DESC
         LIMIT @count::bigint + @skip::bigint
    ) AS e
    UNION
    SELECT e.* FROM own CROSS JOIN LATERAL (
        SELECT * FROM encounters AS e
         WHERE e.receiver_id = own.id AND e.id < coalesce(@before, 'ffffffff-ffff-ffff-ffff-ffffffffffff')
         ORDER BY e.id DESC
         LIMIT @count + @skip
    ) AS e
)
SELECT f.id, f.initiator_id, f.receiver_id, f.latitude, f.longitude, f.encountered_at, f.verified_at
  FROM found AS f
 ORDER BY f.id DESC
 LIMIT @count
OFFSET @skip;

-- name: count_encounters :one
-- How many encounters that list has in all.
-- Index  memberships_by_buyer, encounters_by_initiator, encounters_by_receiver
WITH own AS MATERIALIZED (
    SELECT m.id FROM memberships AS m WHERE m.buyer = @buyer
)
SELECT (SELECT count(*) FROM own JOIN encounters AS e ON e.initiator_id = own.id)
     + (SELECT count(*) FROM own JOIN encounters AS e ON e.receiver_id = own.id)
     - (SELECT count(*) FROM own JOIN encounters AS e ON e.initiator_id = own.id
         WHERE e.receiver_id IN (SELECT o.id FROM own AS o)) AS items;
