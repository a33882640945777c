-- +goose Up

-- What somebody is believed for: a space ('' is what all clusters share, or cluster:NAME, group:NAME, with the name as in a URL's path)
-- and a registry ('' is any). The first is any; it is that of all data from before there were origins.
CREATE TABLE origins (
  id       {{id}},
  space    {{text}} NOT NULL,
  registry {{text}} NOT NULL,
  UNIQUE (space, registry)
);
INSERT INTO origins (space, registry) VALUES ('', '');

-- A row is now one piece of evidence: a digest and an origin. The column that was unique names it: the digest
-- alone where the origin is any, else the digest and the id of the origin.
ALTER TABLE images RENAME COLUMN digest TO piece;
ALTER TABLE images ADD COLUMN digest {{text}} NOT NULL DEFAULT '';
ALTER TABLE images ADD COLUMN origin_id BIGINT NOT NULL DEFAULT 1;
ALTER TABLE images ADD COLUMN found {{text}} NOT NULL DEFAULT ''; -- when the packages were determined
ALTER TABLE images ADD COLUMN way {{text}} NOT NULL DEFAULT 'upload';
ALTER TABLE images ADD COLUMN identity {{text}} NOT NULL DEFAULT 'before origin';
ALTER TABLE images ADD COLUMN fingerprint {{text}} NOT NULL DEFAULT ''; -- of the packages of its SBOM
ALTER TABLE images ADD COLUMN epss DOUBLE PRECISION;
ALTER TABLE images ADD COLUMN kev BOOLEAN NOT NULL DEFAULT FALSE;
ALTER TABLE images ADD COLUMN fixable BOOLEAN NOT NULL DEFAULT FALSE;
UPDATE images SET digest = piece,
  found = COALESCE((SELECT CASE WHEN s.scanned_at > s.stored_at THEN s.stored_at ELSE s.scanned_at END FROM scans s WHERE s.id = images.scan_id), ''),
  epss = (SELECT MAX(l.epss) FROM listings l WHERE l.image_id = images.id),
  kev = EXISTS (SELECT 1 FROM listings l WHERE l.image_id = images.id AND l.kev),
  fixable = EXISTS (SELECT 1 FROM listings l WHERE l.image_id = images.id AND l.fixable);
CREATE INDEX images_digest ON images (digest);

-- Names under which a piece was handed in.
CREATE TABLE image_names (
  image_id BIGINT NOT NULL REFERENCES images (id) ON DELETE CASCADE,
  name     {{text}} NOT NULL,
  PRIMARY KEY (image_id, name)
){{rowless}};
INSERT INTO image_names (image_id, name) SELECT DISTINCT image_id, name FROM listings WHERE image_id IS NOT NULL AND source <> '';

ALTER TABLE scans ADD COLUMN origin_id BIGINT NOT NULL DEFAULT 1;
ALTER TABLE scans ADD COLUMN found {{text}} NOT NULL DEFAULT ''; -- '' is the time of the scan
ALTER TABLE scans ADD COLUMN way {{text}} NOT NULL DEFAULT 'upload';
ALTER TABLE scans ADD COLUMN identity {{text}} NOT NULL DEFAULT 'before origin';
DROP INDEX scans_once;
CREATE UNIQUE INDEX scans_once ON scans (digest, reference, scanned_at, checksum, source, origin_id);
CREATE INDEX scans_identity ON scans (identity);

-- Of the SBOM, beside it: see 00007.
ALTER TABLE matches ADD COLUMN found {{text}} NOT NULL DEFAULT '';
ALTER TABLE matches ADD COLUMN way {{text}} NOT NULL DEFAULT 'upload';
ALTER TABLE matches ADD COLUMN identity {{text}} NOT NULL DEFAULT 'before origin';
UPDATE matches SET found = COALESCE((SELECT b.received FROM sboms b WHERE b.image_id = matches.image_id), '');

-- Scans that failed, the last of each origin, where no good one came after it.
CREATE TABLE failures (
  listing_id BIGINT NOT NULL REFERENCES listings (id) ON DELETE CASCADE,
  origin_id  BIGINT NOT NULL,
  identity   {{text}} NOT NULL,
  source     {{text}} NOT NULL,
  error      {{text}} NOT NULL,
  at         {{text}} NOT NULL,
  PRIMARY KEY (listing_id, origin_id)
){{rowless}};
INSERT INTO failures (listing_id, origin_id, identity, source, error, at) SELECT id, 1, 'before origin', source, error, scanned_at FROM listings WHERE error <> '';

-- What a listing is in the view of a cluster (cluster:NAME), of the clusters of a group (group:NAME), and of
-- all others (''); only where some origin is not of any cluster. The listing shows the worst.
CREATE TABLE listing_views (
  listing_id BIGINT NOT NULL REFERENCES listings (id) ON DELETE CASCADE,
  view       {{text}} NOT NULL,
  image_id   BIGINT, -- the piece that counts
  result     {{text}} NOT NULL,
  max_cvss   DOUBLE PRECISION,
  score      DOUBLE PRECISION NOT NULL,
  scanned_at {{text}} NOT NULL,
  epss       DOUBLE PRECISION,
  kev        BOOLEAN NOT NULL,
  fixable    BOOLEAN NOT NULL,
  error      {{text}} NOT NULL,
  PRIMARY KEY (listing_id, view)
);
ALTER TABLE listings ADD COLUMN differs BOOLEAN NOT NULL DEFAULT FALSE;

-- What bytes prove of the digest that they have.
CREATE TABLE proofs (
  digest        {{text}} NOT NULL PRIMARY KEY,
  config_digest {{text}} NOT NULL, -- of a manifest; '' is an index
  platforms     {{text}} NOT NULL, -- JSON
  at            {{text}} NOT NULL
);

ALTER TABLE indexes RENAME TO indexes_before;
CREATE TABLE indexes (
  digest    {{text}} NOT NULL,
  origin_id BIGINT NOT NULL,
  platforms {{text}} NOT NULL, -- JSON
  at        {{text}} NOT NULL,
  identity  {{text}} NOT NULL,
  PRIMARY KEY (digest, origin_id)
);
INSERT INTO indexes (digest, origin_id, platforms, at, identity) SELECT digest, 1, platforms, at, 'before origin' FROM indexes_before;
DROP TABLE indexes_before;

ALTER TABLE observations RENAME TO observations_before;
CREATE TABLE observations (
  name     {{text}} NOT NULL,
  tag      {{text}} NOT NULL,
  space    {{text}} NOT NULL, -- '' or cluster:NAME
  digest   {{text}} NOT NULL,
  identity {{text}} NOT NULL,
  first    {{text}} NOT NULL,
  last     {{text}} NOT NULL,
  PRIMARY KEY (name, tag, space, digest, identity)
);
INSERT INTO observations (name, tag, space, digest, identity, first, last) SELECT name, tag, '', digest, 'before origin', first, last FROM observations_before;
DROP TABLE observations_before;
CREATE INDEX observations_digest ON observations (digest);

-- Claims of nodes are of a space.
ALTER TABLE claims RENAME TO claims_before;
CREATE TABLE claims (
  digest   {{text}} NOT NULL,
  space    {{text}} NOT NULL,
  cluster  {{text}} NOT NULL,
  node     {{text}} NOT NULL,
  until    {{text}} NOT NULL,
  attempts BIGINT NOT NULL,
  failed   BOOLEAN NOT NULL,
  identity {{text}} NOT NULL,
  PRIMARY KEY (digest, space)
);
INSERT INTO claims (digest, space, cluster, node, until, attempts, failed, identity) SELECT digest, '', cluster, node, until, attempts, failed, 'before origin' FROM claims_before;
DROP TABLE claims_before;

ALTER TABLE instances ADD COLUMN identity {{text}} NOT NULL DEFAULT 'before origin';

-- Which clusters share a group's evidence and claims.
CREATE TABLE members (
  cluster     {{text}} NOT NULL,
  trust_group {{text}} NOT NULL,
  PRIMARY KEY (cluster, trust_group)
);

-- The space that a change is in.
ALTER TABLE changes ADD COLUMN space {{text}} NOT NULL DEFAULT '';
