-- +goose Up

-- Names are canonical from here on (docs/design/029-names.md), as api.Reference.Name gives them: the host in lower case, its
-- port without leading zeros and without 443, and Docker Hub's hosts as docker.io. What is stored under other spellings is
-- renamed, and rows that meet are merged.

-- Names and references that are there, and what becomes of them.
CREATE TABLE renames (
  before {{text}} NOT NULL PRIMARY KEY,
  after  {{text}} NOT NULL
);
INSERT INTO renames (before, after) -- materialised: SQLite would write each step into the next
WITH texts AS MATERIALIZED (
  SELECT name AS before FROM observations UNION SELECT name FROM listings UNION SELECT image FROM listings UNION SELECT name FROM image_names UNION SELECT name FROM instances
  UNION SELECT reference FROM scans UNION SELECT reference FROM sboms UNION SELECT repository FROM exceptions UNION SELECT key FROM holdings WHERE kind = 'name'
), cut AS MATERIALIZED ( -- the digest and the tag are left out
  SELECT before, CASE WHEN {{find}}(before, '@') > 0 THEN substr(before, 1, {{find}}(before, '@') - 1) ELSE before END AS named FROM texts WHERE {{find}}(before, '/') > 0
), stems AS MATERIALIZED (
  SELECT before, named, rtrim(named, 'ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_.-') AS stem FROM cut
), names AS MATERIALIZED (
  SELECT before, CASE WHEN substr(stem, length(stem), 1) = ':' THEN substr(stem, 1, length(stem) - 1) ELSE named END AS name FROM stems
), hosts AS MATERIALIZED (
  SELECT before, name, lower(substr(name, 1, {{find}}(name, '/') - 1)) AS host, substr(name, {{find}}(name, '/') + 1) AS path FROM names
), ports AS MATERIALIZED (
  SELECT before, name, host, path, rtrim(host, '0123456789') AS stem FROM hosts
), split AS MATERIALIZED (
  SELECT before, name, path, CASE WHEN substr(stem, length(stem), 1) = ':' THEN substr(stem, 1, length(stem) - 1) ELSE host END AS host,
    CASE WHEN substr(stem, length(stem), 1) <> ':' THEN '443' WHEN ltrim(substr(host, length(stem) + 1), '0') = '' THEN '0' ELSE ltrim(substr(host, length(stem) + 1), '0') END AS port FROM ports
), canonical AS (
  SELECT before, name, CASE
    WHEN port = '443' AND host IN ('docker.io', 'index.docker.io', 'registry-1.docker.io', 'registry.hub.docker.com') AND {{find}}(path, '/') > 0 THEN 'docker.io/' || path
    WHEN port = '443' AND host IN ('docker.io', 'index.docker.io', 'registry-1.docker.io', 'registry.hub.docker.com') AND length(path) <= 247 THEN 'docker.io/library/' || path
    WHEN port = '443' AND (host = 'localhost' OR {{find}}(host, '.') > 0 OR {{find}}(host, ':') > 0) THEN host || '/' || path
    ELSE host || ':' || port || '/' || path END AS after FROM split
)
SELECT before, after || substr(before, length(name) + 1) FROM canonical WHERE after <> name;

-- Registries of origins, and the origin that stays of those that become one.
CREATE TABLE registries_after (
  id       BIGINT NOT NULL PRIMARY KEY,
  registry {{text}} NOT NULL,
  kept     BIGINT NOT NULL
);
INSERT INTO registries_after (id, registry, kept)
WITH hosts AS MATERIALIZED (
  SELECT id, space, registry, CASE WHEN {{find}}(registry, '/') > 0 THEN substr(registry, 1, {{find}}(registry, '/') - 1) ELSE registry END AS host FROM origins
), looks AS MATERIALIZED ( -- as a host
  SELECT id, space, registry, lower(host) AS host, substr(registry, length(host) + 1) AS path FROM hosts
  WHERE host = 'localhost' OR {{find}}(host, '.') > 0 OR {{find}}(host, ':') > 0 OR lower(host) <> host
), ports AS MATERIALIZED (
  SELECT id, space, registry, host, path, rtrim(host, '0123456789') AS stem FROM looks
), split AS MATERIALIZED (
  SELECT id, space, registry, path, CASE WHEN substr(stem, length(stem), 1) = ':' THEN substr(stem, 1, length(stem) - 1) ELSE host END AS host,
    CASE WHEN substr(stem, length(stem), 1) <> ':' THEN '443' WHEN ltrim(substr(host, length(stem) + 1), '0') = '' THEN '0' ELSE ltrim(substr(host, length(stem) + 1), '0') END AS port FROM ports
), canonical AS (
  SELECT id, space, registry, CASE
    WHEN port = '443' AND host IN ('docker.io', 'index.docker.io', 'registry-1.docker.io', 'registry.hub.docker.com') THEN 'docker.io' || path
    WHEN port = '443' AND (host = 'localhost' OR {{find}}(host, '.') > 0 OR {{find}}(host, ':') > 0) THEN host || path
    ELSE host || ':' || port || path END AS after FROM split
), grouped AS (
  SELECT id, registry, after, MIN(id) OVER (PARTITION BY space, after) AS kept FROM canonical
)
SELECT id, after, kept FROM grouped WHERE after <> registry OR id <> kept;

-- Listings that become one: the one that was first stays.
CREATE TABLE listings_merged (
  id   BIGINT NOT NULL PRIMARY KEY,
  kept BIGINT NOT NULL
);
INSERT INTO listings_merged (id, kept)
WITH grouped AS (
  SELECT l.id, MIN(l.id) OVER (PARTITION BY COALESCE(r.after, l.name), l.tag, l.digest) AS kept FROM listings l LEFT JOIN renames r ON r.before = l.name
)
SELECT id, kept FROM grouped WHERE id <> kept;

-- Pieces of evidence that become one: what was found last counts.
CREATE TABLE images_merged (
  id   BIGINT NOT NULL PRIMARY KEY,
  kept BIGINT NOT NULL
);
INSERT INTO images_merged (id, kept)
WITH grouped AS (
  SELECT i.id, FIRST_VALUE(i.id) OVER (PARTITION BY i.digest, o.kept ORDER BY CASE WHEN i.scan_id IS NULL THEN 1 ELSE 0 END, i.found DESC, i.id DESC) AS kept
  FROM images i JOIN (SELECT id, kept FROM registries_after UNION SELECT kept, kept FROM registries_after) o ON o.id = i.origin_id
)
SELECT id, kept FROM grouped WHERE id <> kept;

-- The very same scan under two spellings is there once.
CREATE TABLE scans_merged (
  id   BIGINT NOT NULL PRIMARY KEY,
  kept BIGINT NOT NULL
);
INSERT INTO scans_merged (id, kept)
WITH grouped AS (
  SELECT s.id, MIN(s.id) OVER (PARTITION BY s.digest, COALESCE(r.after, s.reference), s.scanned_at, s.checksum, s.source, COALESCE(o.kept, s.origin_id)) AS kept
  FROM scans s LEFT JOIN renames r ON r.before = s.reference LEFT JOIN registries_after o ON o.id = s.origin_id
  WHERE s.reference IN (SELECT before FROM renames) OR s.reference IN (SELECT after FROM renames) OR s.origin_id IN (SELECT id FROM registries_after) OR s.origin_id IN (SELECT kept FROM registries_after)
)
SELECT id, kept FROM grouped WHERE id <> kept;

-- Scans.
UPDATE images SET scan_id = (SELECT m.kept FROM scans_merged m WHERE m.id = images.scan_id) WHERE scan_id IN (SELECT id FROM scans_merged);
UPDATE work SET scan_id = (SELECT m.kept FROM scans_merged m WHERE m.id = work.scan_id) WHERE scan_id IN (SELECT id FROM scans_merged);
DELETE FROM scans WHERE id IN (SELECT id FROM scans_merged);
UPDATE scans SET reference = (SELECT r.after FROM renames r WHERE r.before = scans.reference) WHERE reference IN (SELECT before FROM renames);
UPDATE scans SET image_id = (SELECT m.kept FROM images_merged m WHERE m.id = scans.image_id) WHERE image_id IN (SELECT id FROM images_merged);
UPDATE scans SET origin_id = (SELECT o.kept FROM registries_after o WHERE o.id = scans.origin_id) WHERE origin_id IN (SELECT id FROM registries_after WHERE kept <> id);

-- SBOMs: a piece without one takes the last of those that become one with it.
CREATE TABLE sboms_moved (
  id   BIGINT NOT NULL PRIMARY KEY,
  kept BIGINT NOT NULL
);
INSERT INTO sboms_moved (id, kept)
WITH ranked AS (
  SELECT m.id, m.kept, ROW_NUMBER() OVER (PARTITION BY m.kept ORDER BY b.received DESC, m.id DESC) AS n FROM images_merged m JOIN sboms b ON b.image_id = m.id
  WHERE m.kept NOT IN (SELECT image_id FROM sboms)
)
SELECT id, kept FROM ranked WHERE n = 1;
INSERT INTO sboms (image_id, reference, sha256, format, header, document, received)
  SELECT m.kept, b.reference, b.sha256, b.format, b.header, b.document, b.received FROM sboms_moved m JOIN sboms b ON b.image_id = m.id;
INSERT INTO matches (image_id, matched_at, checksum, built, matcher, error, urgent, found, way, identity, bytes)
  SELECT m.kept, x.matched_at, x.checksum, x.built, x.matcher, x.error, x.urgent, x.found, x.way, x.identity, x.bytes FROM sboms_moved m JOIN matches x ON x.image_id = m.id;
INSERT INTO compacts (image_id, packages) SELECT m.kept, c.packages FROM sboms_moved m JOIN compacts c ON c.image_id = m.id;
INSERT INTO image_packages (package_id, image_id) SELECT p.package_id, m.kept FROM sboms_moved m JOIN image_packages p ON p.image_id = m.id WHERE TRUE ON CONFLICT (package_id, image_id) DO NOTHING;
UPDATE sboms SET reference = (SELECT r.after FROM renames r WHERE r.before = sboms.reference) WHERE reference IN (SELECT before FROM renames);

-- Pieces of evidence.
INSERT INTO image_names (image_id, name) SELECT DISTINCT m.kept, n.name FROM images_merged m JOIN image_names n ON n.image_id = m.id WHERE TRUE ON CONFLICT (image_id, name) DO NOTHING;
INSERT INTO image_names (image_id, name) SELECT DISTINCT n.image_id, r.after FROM image_names n JOIN renames r ON r.before = n.name WHERE TRUE ON CONFLICT (image_id, name) DO NOTHING;
DELETE FROM image_names WHERE name IN (SELECT before FROM renames);
UPDATE listings SET image_id = (SELECT m.kept FROM images_merged m WHERE m.id = listings.image_id) WHERE image_id IN (SELECT id FROM images_merged);
UPDATE listing_views SET image_id = (SELECT m.kept FROM images_merged m WHERE m.id = listing_views.image_id) WHERE image_id IN (SELECT id FROM images_merged);
UPDATE terms SET images = images - (SELECT COUNT(*) FROM image_terms x JOIN images_merged m ON m.id = x.image_id WHERE x.term_id = terms.id)
  WHERE id IN (SELECT x.term_id FROM image_terms x JOIN images_merged m ON m.id = x.image_id);
DELETE FROM images WHERE id IN (SELECT id FROM images_merged);
UPDATE images SET piece = digest || ' ' || CAST((SELECT o.kept FROM registries_after o WHERE o.id = images.origin_id) AS TEXT), origin_id = (SELECT o.kept FROM registries_after o WHERE o.id = images.origin_id)
  WHERE origin_id IN (SELECT id FROM registries_after WHERE kept <> id);

-- Claims of indexes: the last one counts.
INSERT INTO indexes (digest, origin_id, platforms, at, identity, bytes)
  SELECT digest, kept, platforms, at, identity, bytes FROM (
    SELECT x.digest, o.kept, x.platforms, x.at, x.identity, x.bytes, ROW_NUMBER() OVER (PARTITION BY x.digest, o.kept ORDER BY x.at DESC, x.origin_id DESC) AS n
    FROM indexes x JOIN registries_after o ON o.id = x.origin_id AND o.kept <> o.id
  ) ranked WHERE n = 1
  ON CONFLICT (digest, origin_id) DO UPDATE SET platforms = excluded.platforms, at = excluded.at, identity = excluded.identity, bytes = excluded.bytes WHERE indexes.at < excluded.at;
DELETE FROM indexes WHERE origin_id IN (SELECT id FROM registries_after WHERE kept <> id);

-- Failures of listings and origins that become one: the last one is shown.
CREATE TABLE failures_after AS
  SELECT listing_id, origin_id, identity, source, error, at FROM (
    SELECT COALESCE(l.kept, f.listing_id) AS listing_id, COALESCE(o.kept, f.origin_id) AS origin_id, f.identity, f.source, f.error, f.at,
      ROW_NUMBER() OVER (PARTITION BY COALESCE(l.kept, f.listing_id), COALESCE(o.kept, f.origin_id) ORDER BY f.at DESC, f.listing_id, f.origin_id) AS n
    FROM failures f LEFT JOIN listings_merged l ON l.id = f.listing_id LEFT JOIN registries_after o ON o.id = f.origin_id
  ) ranked WHERE n = 1;
DELETE FROM failures;
INSERT INTO failures (listing_id, origin_id, identity, source, error, at) SELECT listing_id, origin_id, identity, source, error, at FROM failures_after;
DROP TABLE failures_after;

-- Origins.
DELETE FROM origins WHERE id IN (SELECT id FROM registries_after WHERE kept <> id);
UPDATE origins SET registry = (SELECT o.registry FROM registries_after o WHERE o.id = origins.id) WHERE id IN (SELECT id FROM registries_after);

-- Listings. What is dismissed stays so where all of them were.
UPDATE work SET listing_id = (SELECT m.kept FROM listings_merged m WHERE m.id = work.listing_id) WHERE listing_id IN (SELECT id FROM listings_merged);
UPDATE instances SET listing_id = (SELECT m.kept FROM listings_merged m WHERE m.id = instances.listing_id) WHERE listing_id IN (SELECT id FROM listings_merged);
CREATE TABLE listings_after AS
  SELECT g.kept AS id, MIN(l.first_seen) AS first_seen, MAX(l.scanned_at) AS scanned_at, MIN(CASE WHEN l.dismissed THEN 1 ELSE 0 END) AS dismissed, MAX(l.judged) AS judged, MAX(l.image_id) AS image_id
  FROM listings l JOIN (SELECT id, kept FROM listings_merged UNION SELECT kept, kept FROM listings_merged) g ON g.id = l.id GROUP BY g.kept;
CREATE UNIQUE INDEX listings_after_id ON listings_after (id);
UPDATE listings SET (first_seen, scanned_at, dismissed, judged, image_id) = (
    SELECT a.first_seen, a.scanned_at, a.dismissed = 1, a.judged, COALESCE(listings.image_id, a.image_id) FROM listings_after a WHERE a.id = listings.id),
  instances = (SELECT COUNT(*) FROM instances n WHERE n.listing_id = listings.id)
  WHERE id IN (SELECT id FROM listings_after);
DELETE FROM listing_views WHERE listing_id IN (SELECT id FROM listings_merged);
DELETE FROM listings WHERE id IN (SELECT id FROM listings_merged);
UPDATE listings SET image = (SELECT r.after FROM renames r WHERE r.before = listings.image) WHERE image IN (SELECT before FROM renames);
UPDATE listings SET name = (SELECT r.after FROM renames r WHERE r.before = listings.name) WHERE name IN (SELECT before FROM renames);
UPDATE listings SET registry = substr(name, 1, length(rtrim(name, 'abcdefghijklmnopqrstuvwxyz0123456789._-')) - 1), repository = substr(name, length(rtrim(name, 'abcdefghijklmnopqrstuvwxyz0123456789._-')) + 1)
  WHERE name IN (SELECT after FROM renames);
-- Nothing failed last where the image was scanned since, under whatever spelling.
DELETE FROM failures WHERE listing_id IN (SELECT kept FROM listings_merged) AND EXISTS (
  SELECT 1 FROM listings l JOIN scans s ON s.digest = l.digest AND s.reference = l.image
  WHERE l.id = failures.listing_id AND s.origin_id = failures.origin_id AND s.error = '' AND s.stored_at > failures.at);

-- What tags led to, what runs, exceptions, and what identities hold.
INSERT INTO observations (name, tag, space, digest, identity, first, last)
  SELECT r.after, o.tag, o.space, o.digest, o.identity, MIN(o.first), MAX(o.last) FROM observations o JOIN renames r ON r.before = o.name WHERE TRUE GROUP BY r.after, o.tag, o.space, o.digest, o.identity
  ON CONFLICT (name, tag, space, digest, identity) DO UPDATE SET first = CASE WHEN excluded.first < observations.first THEN excluded.first ELSE observations.first END,
    last = CASE WHEN excluded.last > observations.last THEN excluded.last ELSE observations.last END;
DELETE FROM observations WHERE name IN (SELECT before FROM renames);
UPDATE instances SET name = (SELECT r.after FROM renames r WHERE r.before = instances.name) WHERE name IN (SELECT before FROM renames);
UPDATE exceptions SET repository = (SELECT r.after FROM renames r WHERE r.before = exceptions.repository) WHERE repository IN (SELECT before FROM renames);
INSERT INTO holdings (identity, kind, key) SELECT DISTINCT h.identity, h.kind, r.after FROM holdings h JOIN renames r ON r.before = h.key WHERE h.kind = 'name' ON CONFLICT (identity, kind, key) DO NOTHING;
DELETE FROM holdings WHERE kind = 'name' AND key IN (SELECT before FROM renames);
UPDATE usages SET names = (SELECT COUNT(*) FROM holdings h WHERE h.identity = usages.identity AND h.kind = 'name') WHERE EXISTS (SELECT 1 FROM renames);

-- Where anything was renamed, all is classified again, and all parts of the data are new to who follows them.
INSERT INTO changes (kind, key, at, space) SELECT 'results', '', COALESCE((SELECT MAX(at) FROM changes), ''), '' WHERE EXISTS (SELECT 1 FROM renames) OR EXISTS (SELECT 1 FROM registries_after);
UPDATE parts SET seq = (SELECT MAX(seq) FROM changes) WHERE EXISTS (SELECT 1 FROM renames) OR EXISTS (SELECT 1 FROM registries_after);
INSERT INTO work (seq, at) SELECT MAX(seq), MAX(at) FROM changes WHERE EXISTS (SELECT 1 FROM renames) OR EXISTS (SELECT 1 FROM registries_after) HAVING COUNT(*) > 0;

DROP TABLE sboms_moved;
DROP TABLE scans_merged;
DROP TABLE images_merged;
DROP TABLE listings_after;
DROP TABLE listings_merged;
DROP TABLE registries_after;
DROP TABLE renames;
