-- name: register_pass :one
-- A wallet wants to hear of changes of a pass. Of a pass that too many want to hear of, the oldest are forgotten.
-- Index  pass_registrations_by_membership
WITH surplus AS (
    DELETE FROM pass_registrations AS p
     WHERE p.membership_id = @membership_id
       AND p.device_library_id IN (SELECT o.device_library_id
                                     FROM pass_registrations AS o
                                    WHERE o.membership_id = @membership_id AND o.device_library_id <> @device
                                    ORDER BY o.registered_at DESC
                                   OFFSET @most::bigint - 1)
)
INSERT INTO pass_registrations AS r (device_library_id, membership_id, push_token)
VALUES (@device, @membership_id, @push_token)
    ON CONFLICT (device_library_id, membership_id) DO UPDATE SET push_token = excluded.push_token
RETURNING r.xmax = 0 AS is_new;

-- name: unregister_pass :maybe
-- A wallet does not want to hear of a pass any more; no row if it did not.
-- Index  pass_registrations_pkey
DELETE FROM pass_registrations AS r
 WHERE r.device_library_id = @device AND r.membership_id = @membership_id
RETURNING r.membership_id;

-- name: find_registered :many
-- The memberships whose passes a device wants to hear of, live and revoked.
-- Index  pass_registrations_pkey, memberships_pkey, membership_drops_pkey
SELECT m.id, m.drop_id, k.tier, k.year, m.number, m.buyer, m.minted_at, m.changed_at, m.revoked_at, m.revoke_reason
  FROM pass_registrations AS r
  JOIN memberships AS m ON m.id = r.membership_id
  JOIN membership_drops AS k ON k.drop_id = m.drop_id
 WHERE r.device_library_id = @device
 ORDER BY r.membership_id
 LIMIT @count::bigint;

-- name: find_revoked :many
-- Ids of memberships that have ended, after one in the order of ids, for doors.
-- Index  memberships_pkey
SELECT m.id
  FROM memberships AS m
 WHERE m.revoked_at IS NOT NULL AND (@after::uuid IS NULL OR m.id > @after)
 ORDER BY m.id
 LIMIT @count::bigint;
