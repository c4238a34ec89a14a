-- Windows of correlations, and what detectors remember beyond them.

CREATE TABLE contributions (
    series {text} NOT NULL,
    at     BIGINT NOT NULL,
    event  {text} NOT NULL,
    base   BIGINT NOT NULL,
    value  {text} NOT NULL,
    until  BIGINT NOT NULL,
    due    BIGINT NOT NULL,
    body   {blob} NOT NULL,
    PRIMARY KEY (series, at, event, base)
) {clustered};
CREATE INDEX contributions_by_until ON contributions (until);
CREATE INDEX contributions_due ON contributions (due, series, at) WHERE due > 0;

CREATE TABLE sightings (
    series   {text} NOT NULL,
    item     {text} NOT NULL,
    first_at BIGINT NOT NULL,
    last_at  BIGINT NOT NULL,
    n        BIGINT NOT NULL,
    until    BIGINT NOT NULL,
    PRIMARY KEY (series, item)
) {clustered};
CREATE INDEX sightings_by_until ON sightings (until);
