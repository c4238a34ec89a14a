-- When a bundle was last the active one, 0 while it is. Bundles that were put before
-- this was noted may have been until now.
ALTER TABLE bundles ADD COLUMN used BIGINT NOT NULL DEFAULT 0;
{postgres} UPDATE bundles SET used = (extract(epoch FROM now()) * 1000000)::bigint;
{sqlite} UPDATE bundles SET used = CAST(strftime('%s', 'now') AS INTEGER) * 1000000;
