-- What an operator wants of a machine, whatever the policy says.
ALTER TABLE machines ADD COLUMN deploy TEXT;
