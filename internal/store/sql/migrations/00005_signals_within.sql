-- A signal stands here once for each ref that it is found under: what it accuses,
-- its other names, and all that these belong to. Judging an account then does not
-- begin with looking for its sessions. Those that there are may be found under a
-- few refs too many.
CREATE TABLE signals_within (
    within {text} NOT NULL,
    at     BIGINT NOT NULL,
    id     {text} NOT NULL,
    PRIMARY KEY (within, at, id)
) {clustered};

INSERT INTO signals_within (within, at, id)
WITH RECURSIVE up (accused, within) AS (
    SELECT DISTINCT accused, accused FROM signals
    UNION
    SELECT up.accused, CASE WHEN l.from_ref = up.within THEN l.to_ref ELSE l.from_ref END
    FROM up JOIN links l ON (l.from_ref = up.within AND l.rel IN ('of', 'same')) OR (l.to_ref = up.within AND l.rel = 'same')
)
SELECT up.within, s.at, s.id FROM up JOIN signals s ON s.accused = up.accused;

DROP INDEX signals_accusing;

-- Nobody asked for these, and each is a place more that every insertion has to
-- write to.
DROP INDEX facts_about;

CREATE TABLE links_new (
    fact     {text} NOT NULL,
    rel      {text} NOT NULL,
    from_ref {text} NOT NULL,
    to_ref   {text} NOT NULL,
    since    BIGINT NOT NULL,
    body     {blob} NOT NULL
);
INSERT INTO links_new (fact, rel, from_ref, to_ref, since, body) SELECT fact, rel, from_ref, to_ref, since, body FROM links;
DROP TABLE links;
ALTER TABLE links_new RENAME TO links;
CREATE INDEX links_from ON links (from_ref, rel, since, fact);
CREATE INDEX links_to ON links (to_ref, rel, since, fact);
