-- A hold goes with the last case that claimed it.
CREATE INDEX hold_claims_by_hold ON hold_claims (hold);
