-- seal_records: write one block of the ledger: of all that these records tell of, in their order, those after the
-- first `p_skip`, at most `p_take`. Buyers without a salt get one. One row: how many, and their leaves in order.
--
-- In Postgres, because a rush leaves a hundred thousand of them: none has to travel but its hash.
--
-- Locks  nothing; the caller has the head row
-- Index  records_pkey, purchases_pkey, ledger_salts_pkey
CREATE OR REPLACE FUNCTION seal_records(
    p_rows bigint[], p_skip integer, p_take integer, p_height bigint, p_first bigint
)
    RETURNS TABLE (sealed integer, leaves bytea)
    LANGUAGE plpgsql
    SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off
AS $$
DECLARE
    -- Random bits are dear, one by one: those of a block come of one seed, which nobody keeps.
    v_seed    bytea := uuid_send(gen_random_uuid()) || uuid_send(gen_random_uuid()) || uuid_send(gen_random_uuid());
    v_ids     uuid[];
    v_actions text[];
    v_times   timestamptz[];
BEGIN
    SELECT array_agg(f.id), array_agg(f.action), array_agg(f.made_at)
      INTO v_ids, v_actions, v_times
      FROM (SELECT r.id AS row, s.n, s.id, r.action, r.made_at
              FROM records AS r
             CROSS JOIN unnest(r.subjects) WITH ORDINALITY AS s (id, n)
             WHERE r.id = ANY (p_rows)
             ORDER BY r.id, s.n
            OFFSET p_skip LIMIT p_take) AS f;
    RETURN QUERY
      WITH found AS MATERIALIZED (  -- one look at each purchase: to look is a sixth of all
          SELECT w.n, w.action, w.id, p.buyer, k.salt IS NULL AS is_new,
                 coalesce(k.salt, substr(sha256(v_seed || convert_to(p.buyer, 'UTF8')), 1, 16)) AS salt,
                 p.reservation_id, p.drop_id, p.units, p.amount_cents, d.currency, p.restocked,
                 coalesce(CASE w.action WHEN 'REFUNDED' THEN p.refunded_at ELSE p.purchased_at END, w.at) AS at
            FROM unnest(v_ids, v_actions, v_times) WITH ORDINALITY AS w (id, action, at, n)
            LEFT JOIN LATERAL (SELECT * FROM purchases AS b WHERE b.id = w.id OFFSET 0) AS p ON true
            LEFT JOIN LATERAL (SELECT s.salt FROM ledger_salts AS s WHERE s.buyer = p.buyer OFFSET 0) AS k ON true
            LEFT JOIN LATERAL (SELECT x.currency FROM drops AS x WHERE x.id = p.drop_id OFFSET 0) AS d ON true
      ), told AS MATERIALIZED (  -- or its hashes are made anew wherever they are used
          SELECT p_first + f.n - 1 AS sequence, f.*, coalesce(salted(f.salt, f.buyer), '') AS subject FROM found AS f
      ), salted AS (  -- nobody else gives salts while we have the head: no row can be in the way
          INSERT INTO ledger_salts (buyer, salt, since, subject)
          SELECT DISTINCT t.buyer, t.salt, p_first, t.subject FROM told AS t WHERE t.is_new AND t.buyer IS NOT NULL
      ), written AS MATERIALIZED (
          SELECT t.*, purchase_content(t.sequence, t.action, t.id, t.reservation_id, t.drop_id, t.units,
                                       t.amount_cents, t.currency, t.restocked, t.subject, t.at) AS content
            FROM told AS t
      ), made AS (
          INSERT INTO ledger_entries AS e (sequence, height, action, subject_id, subject, recorded_at, leaf, content)
          SELECT w.sequence, p_height, w.action, w.id, w.subject, w.at,
                 sha256('\x00'::bytea || convert_to(w.content, 'UTF8')), w.content
            FROM written AS w
       RETURNING e.sequence, e.leaf
      )
      SELECT count(*)::integer, string_agg(m.leaf, ''::bytea ORDER BY m.sequence) FROM made AS m;
END
$$;
