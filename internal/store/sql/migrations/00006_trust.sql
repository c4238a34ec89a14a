-- How far rules are trusted, and what they have done. A signal's rule is '' where it
-- does not count: an exercise's.

ALTER TABLE signals ADD COLUMN rule {text} NOT NULL DEFAULT '';
{postgres} UPDATE signals SET rule = convert_from(body, 'UTF8')::json ->> 'rule' WHERE octet_length(convert_from(body, 'UTF8')::json ->> 'rule') <= 2500;
{sqlite} UPDATE signals SET rule = json_extract(CAST(body AS TEXT), '$.rule');
CREATE INDEX signals_of_rule ON signals (rule, at);

-- The rules that were a meaningful part of a decision above observe.
CREATE TABLE decision_rules (
    rule        {text} NOT NULL,
    decision    {text} NOT NULL,
    containment {text} NOT NULL,
    PRIMARY KEY (rule, decision)
) {clustered};
CREATE INDEX decision_rules_of ON decision_rules (containment, rule);

CREATE TABLE trust (
    rule   {text} NOT NULL PRIMARY KEY,
    steers BIGINT NOT NULL,
    body   {blob} NOT NULL
);
CREATE INDEX trust_steers ON trust (rule) WHERE steers = 1;

CREATE TABLE trust_events (
    id   {text} NOT NULL PRIMARY KEY,
    rule {text} NOT NULL,
    at   BIGINT NOT NULL,
    body {blob} NOT NULL
);
CREATE INDEX trust_events_of ON trust_events (rule, at, id);

-- Exercises.
CREATE TABLE drills (
    id    {text} NOT NULL PRIMARY KEY,
    name  {text} NOT NULL,
    at    BIGINT NOT NULL,
    ended BIGINT NOT NULL,
    body  {blob} NOT NULL
);
CREATE INDEX drills_by_time ON drills (at, id);
CREATE INDEX drills_of ON drills (name, at, id);
CREATE INDEX drills_unfinished ON drills (id) WHERE ended = 0;
