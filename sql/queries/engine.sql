-- name: database_identity :one
-- Names this database among all others: initdb, restore and clone each make another one, so that
-- a bouncer left from an older database is simply unknown.
SELECT encode(sha256(concat_ws(':', e.seed, d.oid, 'engine_state'::regclass::oid, c.system_identifier)::bytea),
              'hex') AS id,
       e.epoch
  FROM engine_state AS e
  JOIN pg_database AS d ON d.datname = current_database()
 CROSS JOIN pg_control_system() AS c;

-- name: bump_epoch :one
-- A new epoch if history was lost; see functions/bump_epoch.sql.
SELECT bump_epoch(@seen::bigint) AS epoch;
