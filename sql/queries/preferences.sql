-- name: find_preferences :maybe
-- A user's status with what he wants to be told, and the time by which quiet hours are judged; `stored` is false
-- where the defaults hold. No row: no such user.
-- Index  users_pkey, notification_preferences_pkey
SELECT u.status, p.user_id IS NOT NULL AS stored, clock_timestamp() AS now, p.*
  FROM users AS u
  LEFT JOIN notification_preferences AS p ON p.user_id = u.id
 WHERE u.id = @user_id::uuid;

-- name: lock_user_of_preferences :maybe
-- Hold a user's row, so that two partial changes of his preferences do not overwrite each other, and none is
-- written for who is being deleted.
-- Locks  the user's row, against changes.
-- Index  users_pkey
SELECT u.status FROM users AS u WHERE u.id = @user_id::uuid FOR NO KEY UPDATE;

-- name: put_preferences :one
-- Keep what a user wants, all of it.
-- Locks  the user's preferences.
INSERT INTO notification_preferences AS p (
       user_id, push_enabled, email_enabled, sms_enabled, transaction_notifications, security_alerts,
       marketing_updates, product_updates, trade_executed_enabled, order_filled_enabled, order_cancelled_enabled,
       position_liquidated_enabled, funding_payment_enabled, price_alert_enabled, margin_warning_enabled,
       quiet_hours_enabled, quiet_hours_start, quiet_hours_end, timezone)
VALUES (@user_id, @push_enabled, @email_enabled, @sms_enabled, @transaction_notifications, @security_alerts,
       @marketing_updates, @product_updates, @trade_executed_enabled, @order_filled_enabled, @order_cancelled_enabled,
       @position_liquidated_enabled, @funding_payment_enabled, @price_alert_enabled, @margin_warning_enabled,
       @quiet_hours_enabled, @quiet_hours_start, @quiet_hours_end, @timezone)
    ON CONFLICT (user_id) DO UPDATE SET
       push_enabled = excluded.push_enabled,
       email_enabled = excluded.email_enabled,
       sms_enabled = excluded.sms_enabled,
       transaction_notifications = excluded.transaction_notifications,
       security_alerts = excluded.security_alerts,
       marketing_updates = excluded.marketing_updates,
       product_updates = excluded.product_updates,
       trade_executed_enabled = excluded.trade_executed_enabled,
       order_filled_enabled = excluded.order_filled_enabled,
       order_cancelled_enabled = excluded.order_cancelled_enabled,
       position_liquidated_enabled = excluded.position_liquidated_enabled,
       funding_payment_enabled = excluded.funding_payment_enabled,
       price_alert_enabled = excluded.price_alert_enabled,
       margin_warning_enabled = excluded.margin_warning_enabled,
       quiet_hours_enabled = excluded.quiet_hours_enabled,
       quiet_hours_start = excluded.quiet_hours_start,
       quiet_hours_end = excluded.quiet_hours_end,
       timezone = excluded.timezone,
       updated_at = clock_timestamp()
RETURNING p.created_at, p.updated_at;

-- name: delete_preferences :maybe
-- Back to the defaults, of which nothing is kept.
-- Locks  the user's preferences.
-- Index  notification_preferences_pkey
DELETE FROM notification_preferences AS p WHERE p.user_id = @user_id::uuid RETURNING p.user_id;
