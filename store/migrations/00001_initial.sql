-- +goose Up
-- {{id}}, {{text}} and {{blob}} are the dialect's: see migrate.go. Texts compare by their
-- bytes; times are text of fixed width in UTC; booleans are booleans.

-- What engines, bundles and pages follow, in order.
CREATE TABLE changes (
  seq  {{id}},
  kind {{text}} NOT NULL, -- image, name, index, exception, settings, policies, instances, alerts
  key  {{text}} NOT NULL,
  at   {{text}} NOT NULL
);

-- When the parts of the data that bundles hold changed last.
CREATE TABLE parts (
  name {{text}} NOT NULL PRIMARY KEY,
  seq  BIGINT NOT NULL
);

CREATE TABLE settings (
  key   {{text}} NOT NULL PRIMARY KEY,
  value {{text}} NOT NULL -- JSON
);

-- One row for each platform manifest.
CREATE TABLE images (
  id            {{id}},
  digest        {{text}} NOT NULL UNIQUE,
  config_digest {{text}} NOT NULL DEFAULT '',
  platform      {{text}} NOT NULL DEFAULT '',
  distro        {{text}} NOT NULL DEFAULT '',
  scan_id       BIGINT, -- the newest without error
  packages      BIGINT NOT NULL DEFAULT 0
);
CREATE INDEX images_config ON images (config_digest);

-- What is computed from the newest scan of an image: the document of its evaluator, and the lists of its events.
CREATE TABLE image_documents (
  image_id BIGINT NOT NULL PRIMARY KEY REFERENCES images (id) ON DELETE CASCADE,
  document {{text}} NOT NULL,
  details  {{blob}} NOT NULL, -- of all its vulnerabilities, JSON, zstd
  cve      {{text}} NOT NULL,
  package  {{text}} NOT NULL
);

-- Lists of vulnerabilities, each kept once however many scans gave it.
CREATE TABLE contents (
  id       {{id}},
  sha256   {{text}} NOT NULL UNIQUE,
  document {{blob}} NOT NULL -- JSON, zstd
);

CREATE TABLE scans (
  id          {{id}},
  image_id    BIGINT REFERENCES images (id) ON DELETE CASCADE, -- absent where no digest is known
  reference   {{text}} NOT NULL,
  digest      {{text}} NOT NULL,
  source      {{text}} NOT NULL,
  scanned_at  {{text}} NOT NULL,
  database    {{text}} NOT NULL, -- when it was built; '' when not known
  checksum    {{text}} NOT NULL,
  stored_at   {{text}} NOT NULL,
  error       {{text}} NOT NULL,
  header      {{text}} NOT NULL, -- JSON of the scan without vulnerabilities
  content_id  BIGINT NOT NULL REFERENCES contents (id)
);
CREATE UNIQUE INDEX scans_once ON scans (digest, reference, scanned_at, checksum, source);
CREATE INDEX scans_image ON scans (image_id, scanned_at);
CREATE INDEX scans_content ON scans (content_id);
CREATE INDEX scans_stored ON scans (stored_at);

CREATE TABLE sboms (
  image_id   BIGINT NOT NULL PRIMARY KEY REFERENCES images (id) ON DELETE CASCADE,
  reference  {{text}} NOT NULL,
  sha256     {{text}} NOT NULL,
  format     {{text}} NOT NULL,
  header     {{text}} NOT NULL, -- JSON of a scan: platform, index, source
  document   {{blob}} NOT NULL, -- Syft JSON, zstd
  received   {{text}} NOT NULL,
  matched_at {{text}} NOT NULL DEFAULT '', -- '' is never
  checksum   {{text}} NOT NULL DEFAULT '', -- of the database
  error      {{text}} NOT NULL DEFAULT ''
);
CREATE INDEX sboms_matched ON sboms (matched_at);

-- Names and digests over time: name:tag led to digest (of an image or an index) from first to last.
CREATE TABLE observations (
  name   {{text}} NOT NULL,
  tag    {{text}} NOT NULL,
  digest {{text}} NOT NULL,
  first  {{text}} NOT NULL,
  last   {{text}} NOT NULL,
  PRIMARY KEY (name, tag, digest)
);

CREATE TABLE indexes (
  digest    {{text}} NOT NULL PRIMARY KEY,
  platforms {{text}} NOT NULL, -- JSON
  at        {{text}} NOT NULL
);

-- One row for each (reference, digest) that was scanned: what lists show. Results are written by the engine alone.
CREATE TABLE listings (
  id         {{id}},
  image_id   BIGINT REFERENCES images (id) ON DELETE CASCADE,
  digest     {{text}} NOT NULL,
  name       {{text}} NOT NULL,
  tag        {{text}} NOT NULL,
  registry   {{text}} NOT NULL,
  repository {{text}} NOT NULL,
  image      {{text}} NOT NULL,
  source     {{text}} NOT NULL,
  result     {{text}} NOT NULL, -- '' until it is computed
  max_cvss   DOUBLE PRECISION,
  scanned_at {{text}} NOT NULL,
  first_seen {{text}} NOT NULL,
  error      {{text}} NOT NULL,
  dismissed  BOOLEAN NOT NULL DEFAULT FALSE,
  epss       DOUBLE PRECISION,
  kev        BOOLEAN NOT NULL DEFAULT FALSE,
  fixable    BOOLEAN NOT NULL DEFAULT FALSE,
  instances  BIGINT NOT NULL DEFAULT 0,
  score      DOUBLE PRECISION NOT NULL DEFAULT -1, -- max_cvss for sorting
  UNIQUE (name, tag, digest)
);
CREATE INDEX listings_image ON listings (image_id);
CREATE INDEX listings_name ON listings (image, id);
CREATE INDEX listings_registry ON listings (registry, repository, id);
CREATE INDEX listings_result ON listings (result, id);
CREATE INDEX listings_score ON listings (score, id);
CREATE INDEX listings_scanned ON listings (scanned_at, id);
CREATE INDEX listings_instances ON listings (instances, id);
CREATE INDEX listings_digest ON listings (digest);

-- What must be classified: a listing for a scan of it or for another change, or, without listing, all of them.
CREATE TABLE work (
  id         {{id}},
  seq        BIGINT NOT NULL, -- the engine must have seen the changes up to here
  listing_id BIGINT REFERENCES listings (id) ON DELETE CASCADE,
  scan_id    BIGINT,
  at         {{text}} NOT NULL
);

-- Search: ids of vulnerabilities and their aliases, packages, and what image has which.
CREATE TABLE terms (
  id     {{id}},
  name   {{text}} NOT NULL UNIQUE,
  images BIGINT NOT NULL DEFAULT 0,
  canonical BOOLEAN NOT NULL DEFAULT FALSE, -- not only the alias of another
  score  DOUBLE PRECISION,
  epss   DOUBLE PRECISION,
  kev    BOOLEAN NOT NULL DEFAULT FALSE,
  severity {{text}} NOT NULL DEFAULT ''
);
CREATE INDEX terms_images ON terms (images, id);
CREATE TABLE packages (
  id      {{id}},
  name    {{text}} NOT NULL,
  version {{text}} NOT NULL,
  type    {{text}} NOT NULL,
  UNIQUE (name, version, type)
);
CREATE TABLE findings (
  image_id   BIGINT NOT NULL REFERENCES images (id) ON DELETE CASCADE,
  term_id    BIGINT NOT NULL,
  package_id BIGINT NOT NULL,
  score      DOUBLE PRECISION,
  fixable    BOOLEAN NOT NULL,
  PRIMARY KEY (image_id, term_id, package_id)
){{rowless}};
CREATE INDEX findings_package ON findings (package_id, image_id);
CREATE TABLE image_terms (
  term_id  BIGINT NOT NULL,
  image_id BIGINT NOT NULL REFERENCES images (id) ON DELETE CASCADE,
  found    {{text}} NOT NULL,
  later    BOOLEAN NOT NULL, -- found by another scan than the first of the image
  PRIMARY KEY (term_id, image_id)
){{rowless}};
CREATE INDEX image_terms_image ON image_terms (image_id);
CREATE INDEX image_terms_later ON image_terms (image_id) WHERE later;
CREATE TABLE image_packages (
  package_id BIGINT NOT NULL,
  image_id   BIGINT NOT NULL REFERENCES images (id) ON DELETE CASCADE,
  PRIMARY KEY (package_id, image_id)
){{rowless}};
CREATE INDEX image_packages_image ON image_packages (image_id);

CREATE TABLE instances (
  cluster       {{text}} NOT NULL,
  namespace     {{text}} NOT NULL,
  pod           {{text}} NOT NULL,
  container     {{text}} NOT NULL,
  node          {{text}} NOT NULL,
  image         {{text}} NOT NULL,
  name          {{text}} NOT NULL,
  tag           {{text}} NOT NULL,
  digest        {{text}} NOT NULL,
  config_digest {{text}} NOT NULL,
  listing_id    BIGINT REFERENCES listings (id) ON DELETE SET NULL,
  first_seen    {{text}} NOT NULL,
  last_seen     {{text}} NOT NULL,
  PRIMARY KEY (cluster, namespace, pod, container)
);
CREATE INDEX instances_listing ON instances (listing_id);
CREATE INDEX instances_node ON instances (cluster, node);
CREATE INDEX instances_digest ON instances (digest);
CREATE INDEX instances_config ON instances (config_digest);

CREATE TABLE exceptions (
  id         {{id}},
  name       {{text}} NOT NULL UNIQUE,
  cve        {{text}} NOT NULL,
  scope      {{text}} NOT NULL,
  repository {{text}} NOT NULL, -- normalised; '' for any
  expires    {{text}} NOT NULL, -- '' is never
  document   {{text}} NOT NULL  -- JSON
);
CREATE INDEX exceptions_cve ON exceptions (cve, id);
CREATE INDEX exceptions_expires ON exceptions (expires);

-- The vulnerability data set: its columns are those that package engine/pushdown asks for.
CREATE TABLE events (
  id              {{id}},
  time            {{text}} NOT NULL,
  registry        {{text}} NOT NULL,
  repository      {{text}} NOT NULL,
  tag             {{text}},
  digest          {{text}},
  image           {{text}} NOT NULL,
  result          {{text}} NOT NULL,
  previous_result {{text}},
  changed         BOOLEAN NOT NULL,
  max_cvss_score  DOUBLE PRECISION,
  cve             {{json}} NOT NULL,
  package         {{json}} NOT NULL,
  fixable         BOOLEAN NOT NULL,
  kev             BOOLEAN NOT NULL,
  epss            DOUBLE PRECISION,
  source          {{text}},
  error           {{text}},
  instances       {{json}} NOT NULL
);
CREATE INDEX events_time ON events (time);

CREATE TABLE alert_rules (
  name      {{text}} NOT NULL PRIMARY KEY,
  evaluated {{text}} NOT NULL,
  error     {{text}} NOT NULL
);
CREATE TABLE alerts (
  subject  {{text}} NOT NULL PRIMARY KEY,
  rule     {{text}} NOT NULL,
  state    {{text}} NOT NULL -- JSON of notify.State
);
CREATE INDEX alerts_rule ON alerts (rule);
CREATE TABLE alert_history (
  id       {{id}},
  episode  {{text}} NOT NULL UNIQUE,
  rule     {{text}} NOT NULL,
  severity BIGINT NOT NULL,
  opened   {{text}} NOT NULL,
  resolved {{text}} NOT NULL, -- '' while it fires
  alert    {{text}} NOT NULL  -- JSON of api.Alert
);
CREATE INDEX alert_history_resolved ON alert_history (resolved, id);

CREATE TABLE deliveries (
  seq          {{id}},
  id           {{text}} NOT NULL,
  receiver     {{text}} NOT NULL,
  subject      {{text}} NOT NULL,
  notification {{text}} NOT NULL, -- JSON
  attempts     BIGINT NOT NULL DEFAULT 0,
  due          {{text}} NOT NULL DEFAULT '',
  leased       {{text}} NOT NULL DEFAULT '', -- until then another dispatcher has it
  reason       {{text}} NOT NULL DEFAULT '',
  failed       {{text}} NOT NULL DEFAULT '' -- when it was given up
);
CREATE UNIQUE INDEX deliveries_waiting ON deliveries (id) WHERE failed = '';
CREATE INDEX deliveries_due ON deliveries (due) WHERE failed = '';

CREATE TABLE decisions (
  id        {{id}},
  uid       {{text}} NOT NULL UNIQUE,
  at        {{text}} NOT NULL,
  cluster   {{text}} NOT NULL,
  namespace {{text}} NOT NULL,
  kind      {{text}} NOT NULL,
  name      {{text}} NOT NULL,
  allowed   BOOLEAN NOT NULL,
  policies  {{text}} NOT NULL, -- those that decided, one a line
  record    {{blob}} NOT NULL -- JSON of api.Record, zstd
);
CREATE INDEX decisions_at ON decisions (at);

CREATE TABLE tokens (
  id      {{id}},
  hash    {{text}} NOT NULL UNIQUE,
  name    {{text}} NOT NULL,
  role    {{text}} NOT NULL,
  scope   {{text}} NOT NULL,
  created {{text}} NOT NULL,
  creator {{text}} NOT NULL,
  expires {{text}} NOT NULL, -- '' is never
  revoked {{text}} NOT NULL -- '' is not
);
CREATE TABLE ended_sessions (
  id    {{text}} NOT NULL PRIMARY KEY,
  until {{text}} NOT NULL
);
