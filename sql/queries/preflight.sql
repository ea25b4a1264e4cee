-- name: server_facts :one
-- What `velvetrope preflight` judges of a server, in one look; works before anything is migrated.
SELECT current_setting('server_version') AS version,
       current_setting('server_version_num')::int / 10000 AS major,
       pg_is_in_recovery() AS in_recovery,
       current_setting('fsync') AS fsync,
       current_setting('full_page_writes') AS full_page_writes,
       current_setting('synchronous_commit') AS synchronous_commit,
       current_setting('autovacuum') AS autovacuum,
       (SELECT setting::int FROM pg_settings WHERE name = 'statement_timeout') AS timeout_ms,
       (SELECT setting::int FROM pg_settings WHERE name = 'lock_timeout') AS lock_timeout_ms,
       (SELECT setting::int FROM pg_settings WHERE name = 'idle_in_transaction_session_timeout') AS idle_timeout_ms,
       current_setting('max_connections')::int
           - current_setting('superuser_reserved_connections')::int AS connections_max,
       (SELECT count(*)::int
          FROM pg_stat_activity
         WHERE backend_type = 'client backend'
           AND application_name <> 'velvetrope'
           AND pid <> pg_backend_pid()) AS connections_of_others,
       current_user::text AS role,
       has_function_privilege('pg_control_system()', 'EXECUTE')
           AND has_function_privilege('pg_walfile_name(pg_lsn)', 'EXECUTE')
           AND has_function_privilege('pg_current_wal_lsn()', 'EXECUTE') AS may_know_history,
       clock_timestamp() AS now;

-- name: schema_facts :one
-- What stands in our schema: tables (and those the role may not use), sound indexes, functions.
SELECT coalesce(current_schema(), '') AS schema,
       ARRAY(SELECT relname::text
               FROM pg_class
              WHERE relnamespace = quote_ident(current_schema())::regnamespace AND relkind IN ('r', 'p')) AS tables,
       ARRAY(SELECT relname::text
               FROM pg_class
              WHERE relnamespace = quote_ident(current_schema())::regnamespace
                AND relkind IN ('r', 'p')
                AND NOT relispartition  -- used by way of its parent
                AND NOT (has_table_privilege(oid, 'SELECT')
                         AND has_table_privilege(oid, 'INSERT')
                         AND has_table_privilege(oid, 'UPDATE')
                         AND has_table_privilege(oid, 'DELETE'))) AS closed_tables,
       ARRAY(SELECT c.relname::text
               FROM pg_class AS c
               JOIN pg_index AS i ON i.indexrelid = c.oid
              WHERE c.relnamespace = quote_ident(current_schema())::regnamespace
                AND i.indisvalid AND i.indisready) AS indexes,
       ARRAY(SELECT proname::text
               FROM pg_proc
              WHERE pronamespace = quote_ident(current_schema())::regnamespace
           ORDER BY proname) AS functions,
       ARRAY(SELECT prosrc
               FROM pg_proc
              WHERE pronamespace = quote_ident(current_schema())::regnamespace
           ORDER BY proname) AS bodies;

-- name: migrations_done :many
-- The migrations that ran. Fails where none ever did.
  SELECT version
    FROM schema_migrations
ORDER BY version;

-- name: replica_facts :one
-- Whose copy a server is, whether it follows another one, and how many seconds it is behind: none while it has
-- replayed all that it received. On a primary it is null.
SELECT e.seed::text AS seed,
       pg_is_in_recovery() AS follows,
       CASE WHEN pg_is_in_recovery() AND EXISTS (SELECT 1 FROM pg_stat_wal_receiver)
                 AND pg_last_wal_receive_lsn() = pg_last_wal_replay_lsn() THEN 0
            ELSE extract(epoch FROM clock_timestamp() - pg_last_xact_replay_timestamp())::float8
       END AS behind_seconds
  FROM engine_state AS e;
