-- SQLite's indexes have numbers in place of refs' keys. A ref gets the next number
-- when it is first stored, so that what is stored of new refs, as sessions and keys
-- mostly are, stands at the end of each index instead of anywhere in it, and only
-- this table's index is written to in random places. PostgreSQL's nodes would have
-- to agree on numbers, so there keys remain.
{sqlite} CREATE TABLE refs (n INTEGER PRIMARY KEY, key BLOB NOT NULL);
{sqlite} INSERT INTO refs (key) SELECT unhex(k) FROM (SELECT ref AS k FROM event_actors UNION SELECT from_ref FROM links UNION SELECT to_ref FROM links UNION SELECT within FROM signals_within) AS all_keys ORDER BY k;
{sqlite} CREATE UNIQUE INDEX refs_by_key ON refs (key);

{sqlite} CREATE TABLE event_actors_new (ref INTEGER NOT NULL, at BIGINT NOT NULL, event TEXT NOT NULL, PRIMARY KEY (ref, at, event)) WITHOUT ROWID;
{sqlite} INSERT INTO event_actors_new (ref, at, event) SELECT r.n, a.at, a.event FROM event_actors a JOIN refs r ON r.key = unhex(a.ref) ORDER BY 1, 2, 3;
{sqlite} DROP TABLE event_actors;
{sqlite} ALTER TABLE event_actors_new RENAME TO event_actors;

{sqlite} CREATE TABLE signals_within_new (within INTEGER NOT NULL, at BIGINT NOT NULL, id TEXT NOT NULL, PRIMARY KEY (within, at, id)) WITHOUT ROWID;
{sqlite} INSERT INTO signals_within_new (within, at, id) SELECT r.n, w.at, w.id FROM signals_within w JOIN refs r ON r.key = unhex(w.within) ORDER BY 1, 2, 3;
{sqlite} DROP TABLE signals_within;
{sqlite} ALTER TABLE signals_within_new RENAME TO signals_within;

{sqlite} CREATE TABLE links_new (fact TEXT NOT NULL, rel TEXT NOT NULL, from_ref INTEGER NOT NULL, to_ref INTEGER NOT NULL, since BIGINT NOT NULL, body BLOB NOT NULL);
{sqlite} INSERT INTO links_new (fact, rel, from_ref, to_ref, since, body) SELECT l.fact, l.rel, f.n, t.n, l.since, l.body FROM links l JOIN refs f ON f.key = unhex(l.from_ref) JOIN refs t ON t.key = unhex(l.to_ref) ORDER BY l.rowid;
{sqlite} DROP TABLE links;
{sqlite} ALTER TABLE links_new RENAME TO links;
{sqlite} CREATE INDEX links_from ON links (from_ref, rel, since, fact);
{sqlite} CREATE INDEX links_to ON links (to_ref, rel, since, fact);
