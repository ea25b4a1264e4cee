-- Whose a record is can be looked up from both ends: without this, a purchase could be made over to somebody whom the
-- ledger does not know, and nothing would be there to compare.
ALTER TABLE ledger_salts ADD COLUMN subject text;

UPDATE ledger_salts SET subject = left(encode(sha256(salt || convert_to(buyer, 'UTF8')), 'hex'), 32);

CREATE INDEX ledger_salts_by_subject ON ledger_salts (subject);
