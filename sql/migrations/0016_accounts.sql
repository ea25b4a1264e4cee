-- Accounts: the people whom the engine knows by more than a buyer's id. A shop that has accounts of its own needs
-- none of this; what is sold names buyers by opaque text, and an account's buyer id is its id.
CREATE TABLE users (
    id                   uuid        PRIMARY KEY,
    username             text,
    email                text,
    phone                text,
    display_name         text,
    privy_id             text        UNIQUE,
    wallet_address       text,
    wallet_registered_at timestamptz,
    password_hash        text,       -- argon2id, or bcrypt until its next login; null: no login by password
    role                 text        NOT NULL DEFAULT 'user',
    status               text        NOT NULL DEFAULT 'active',
    version              integer     NOT NULL DEFAULT 0,
    created_at           timestamptz NOT NULL DEFAULT clock_timestamp(),
    updated_at           timestamptz NOT NULL DEFAULT clock_timestamp(),
    last_active_at       timestamptz,
    deleted_at           timestamptz,
    erased_at            timestamptz,
    CONSTRAINT a_role_is_known CHECK (role IN ('user', 'admin')),
    CONSTRAINT a_status_is_known CHECK (status IN ('active', 'suspended', 'deleted')),
    CONSTRAINT who_is_deleted_is_so_since_then CHECK ((status = 'deleted') = (deleted_at IS NOT NULL)),
    CONSTRAINT who_is_erased_left_nothing_personal CHECK (
        erased_at IS NULL
        OR (status = 'deleted'
            AND coalesce(username, email, phone, display_name, privy_id, wallet_address, password_hash) IS NULL))
);

-- Whatever their case: Ann and ann are one.
CREATE UNIQUE INDEX users_one_a_username ON users (lower(username));
CREATE UNIQUE INDEX users_one_an_email ON users (lower(email));
CREATE UNIQUE INDEX users_one_a_wallet ON users (lower(wallet_address));

-- A device that is logged in. Ended ones stay as history; their tokens are worth nothing. The refresh token is
-- derived from id and generation (HMAC), so no secret is kept here.
CREATE TABLE sessions (
    id                    uuid        PRIMARY KEY,
    user_id               uuid        NOT NULL REFERENCES users,
    device_id             text        NOT NULL,
    device_name           text,
    device_model          text,
    platform              text        NOT NULL,
    os_version            text,
    app_version           text,
    push_token            text,
    push_token_updated_at timestamptz,
    ip_address            text,
    idempotency_key       text,
    is_active             boolean     NOT NULL DEFAULT true,
    refresh_generation    integer     NOT NULL DEFAULT 0,
    refreshed_at          timestamptz,
    created_at            timestamptz NOT NULL DEFAULT clock_timestamp(),
    last_activity_at      timestamptz NOT NULL DEFAULT clock_timestamp(),
    expires_at            timestamptz NOT NULL,
    terminated_at         timestamptz,
    termination_reason    text,
    CONSTRAINT a_platform_is_known CHECK (platform IN ('ios', 'android', 'web')),
    CONSTRAINT a_session_that_ended_says_when_and_why CHECK (
        is_active = (terminated_at IS NULL) AND is_active = (termination_reason IS NULL))
);

CREATE UNIQUE INDEX sessions_one_live_a_user ON sessions (user_id) WHERE is_active;
CREATE UNIQUE INDEX sessions_one_a_key ON sessions (user_id, idempotency_key) WHERE idempotency_key IS NOT NULL;
CREATE INDEX sessions_by_user ON sessions (user_id, id);
CREATE INDEX sessions_due ON sessions (expires_at) WHERE is_active;
CREATE INDEX sessions_ended ON sessions (terminated_at) WHERE NOT is_active;

-- What became of credentials: every worker follows it, and so need not ask for each request whether a token still
-- holds. In the order of transactions that are over: `xid` and pg_snapshot_xmin say which are.
CREATE TABLE credential_changes (
    xid        xid8        NOT NULL DEFAULT pg_current_xact_id(),
    kind       text        NOT NULL,
    subject_id uuid        NOT NULL,
    changed_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    CONSTRAINT a_credential_is_a_session_a_user_or_a_key CHECK (kind IN ('session', 'user', 'key'))
);

CREATE INDEX credential_changes_by_xid ON credential_changes (xid);

-- Whichever statement does it, workers are told.
CREATE FUNCTION tell_credentials() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RETURN NULL;  -- its body stands in sql/functions
END
$$;

CREATE TRIGGER a_session_that_ended_is_told AFTER UPDATE ON sessions
    FOR EACH ROW WHEN (old.is_active <> new.is_active OR old.expires_at <> new.expires_at)
    EXECUTE FUNCTION tell_credentials('session');

CREATE TRIGGER a_user_who_changed_is_told AFTER UPDATE ON users
    FOR EACH ROW WHEN (old.role <> new.role OR old.status <> new.status)
    EXECUTE FUNCTION tell_credentials('user');

CREATE TRIGGER a_key_that_ended_is_told AFTER UPDATE ON api_keys
    FOR EACH ROW EXECUTE FUNCTION tell_credentials('key');

-- One link, once. What is mailed is derived from its id (HMAC), so no secret is kept here either.
CREATE TABLE password_resets (
    id         uuid        PRIMARY KEY,
    user_id    uuid        NOT NULL REFERENCES users,
    created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    expires_at timestamptz NOT NULL,
    used_at    timestamptz
);

CREATE INDEX password_resets_by_user ON password_resets (user_id);

-- Mail that is to be sent, written in the transaction that wants it; gone when a server took it.
CREATE TABLE mails (
    id         uuid        PRIMARY KEY,
    kind       text        NOT NULL,
    address    text        NOT NULL,
    subject_id uuid        NOT NULL,  -- what it is about
    attempts   integer     NOT NULL DEFAULT 0,
    created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    due_at     timestamptz NOT NULL DEFAULT clock_timestamp(),
    gives_up_at timestamptz NOT NULL,
    CONSTRAINT a_mail_is_of_a_known_kind CHECK (kind IN ('password_reset'))
);

CREATE INDEX mails_due ON mails (due_at);

-- Of whom nothing is here the defaults hold: to look writes nothing.
CREATE TABLE notification_preferences (
    user_id                     uuid        PRIMARY KEY REFERENCES users,
    push_enabled                boolean     NOT NULL DEFAULT true,
    email_enabled               boolean     NOT NULL DEFAULT true,
    sms_enabled                 boolean     NOT NULL DEFAULT false,
    transaction_notifications   boolean     NOT NULL DEFAULT true,
    security_alerts             boolean     NOT NULL DEFAULT true,
    marketing_updates           boolean     NOT NULL DEFAULT false,
    product_updates             boolean     NOT NULL DEFAULT true,
    trade_executed_enabled      boolean     NOT NULL DEFAULT true,
    order_filled_enabled        boolean     NOT NULL DEFAULT true,
    order_cancelled_enabled     boolean     NOT NULL DEFAULT true,
    position_liquidated_enabled boolean     NOT NULL DEFAULT true,
    funding_payment_enabled     boolean     NOT NULL DEFAULT true,
    price_alert_enabled         boolean     NOT NULL DEFAULT false,
    margin_warning_enabled      boolean     NOT NULL DEFAULT true,
    quiet_hours_enabled         boolean     NOT NULL DEFAULT false,
    quiet_hours_start           time,
    quiet_hours_end             time,
    timezone                    text        NOT NULL DEFAULT 'UTC',
    created_at                  timestamptz NOT NULL DEFAULT clock_timestamp(),
    updated_at                  timestamptz NOT NULL DEFAULT clock_timestamp(),
    CONSTRAINT quiet_hours_have_a_beginning_and_an_end CHECK (
        NOT quiet_hours_enabled OR (quiet_hours_start IS NOT NULL AND quiet_hours_end IS NOT NULL))
);

-- An invitation. It is used once, by one e-mail, and an e-mail uses one.
CREATE TABLE beta_keys (
    id           uuid        PRIMARY KEY,
    key          text        NOT NULL UNIQUE,
    status       text        NOT NULL DEFAULT 'pending',
    user_email   text,
    created_at   timestamptz NOT NULL DEFAULT clock_timestamp(),
    activated_at timestamptz,
    CONSTRAINT an_invitation_is_used_or_not CHECK (status IN ('pending', 'active')),
    CONSTRAINT a_used_invitation_says_when CHECK ((status = 'active') = (activated_at IS NOT NULL))
);

CREATE UNIQUE INDEX beta_keys_one_an_email ON beta_keys (lower(user_email));

-- What users did. A month is thrown away as a whole; functions/partition_activity.sql makes the months, and what
-- belongs to none of them is kept in the default partition, so that no row is ever refused.
CREATE TABLE activity_logs (
    id         uuid        NOT NULL,
    user_id    uuid,
    session_id uuid,
    action     text        NOT NULL,
    details    jsonb,
    ip_address text,
    user_agent text,
    created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (id, created_at)
) PARTITION BY RANGE (created_at);

CREATE INDEX activity_logs_by_time ON activity_logs (created_at DESC, id DESC);
CREATE INDEX activity_logs_by_user ON activity_logs (user_id, created_at DESC, id DESC);

CREATE TABLE activity_logs_default PARTITION OF activity_logs DEFAULT;

-- What operators did. Two rows an act, one before it and one after (`began` names the first): an act whose process
-- died in the middle has no second. Nobody changes them, its owner neither.
CREATE TABLE audit_log (
    id         bigint      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    began      bigint,
    who        text        NOT NULL,
    operation  text        NOT NULL,
    target     text,
    change     jsonb,
    outcome    text,
    status     integer,
    request_id text,
    address    text,
    at         timestamptz NOT NULL DEFAULT clock_timestamp(),
    CONSTRAINT an_end_has_an_outcome CHECK ((began IS NULL) OR (outcome IS NOT NULL))
);

CREATE UNIQUE INDEX audit_log_one_end_an_act ON audit_log (began) WHERE began IS NOT NULL;

CREATE FUNCTION refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RETURN NULL;  -- its body stands in sql/functions
END
$$;

CREATE TRIGGER what_was_done_stays_written BEFORE UPDATE OR DELETE OR TRUNCATE ON audit_log
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();
-- Also in a session that says it only replicates.
ALTER TABLE audit_log ENABLE ALWAYS TRIGGER what_was_done_stays_written;

-- Who has a named lock. The row stays when it is given back, so that its token only ever rises: what is written
-- with an older one comes from a holder that lost the lock.
CREATE TABLE locks (
    name        text        PRIMARY KEY,
    owner       text,
    token       bigint      NOT NULL DEFAULT 1,
    acquired_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    expires_at  timestamptz NOT NULL
);

DROP TABLE leases;

-- Keys that end by themselves, and keys whose every request must be signed.
ALTER TABLE api_keys
    ADD COLUMN expires_at timestamptz,
    ADD COLUMN must_sign boolean NOT NULL DEFAULT false;

-- What was signed once is not taken twice, within the window in which its timestamp is.
CREATE TABLE nonces (
    key_id  uuid        NOT NULL,
    nonce   text        NOT NULL,
    seen_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (key_id, nonce)
);

CREATE INDEX nonces_by_age ON nonces (seen_at);
