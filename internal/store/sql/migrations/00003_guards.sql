-- The nodes that answer on the fast plane: until when each may answer, by the
-- database's clock, and how far it has applied the holds.
CREATE TABLE guards (
    node    {text} NOT NULL PRIMARY KEY,
    until   BIGINT NOT NULL,
    applied BIGINT NOT NULL,
    body    {blob} NOT NULL
);
