-- Whoever begins by a rule with a limit counts those who did.
CREATE INDEX runs_by_rule ON runs (rule, state);
