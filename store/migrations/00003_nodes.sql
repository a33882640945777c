-- +goose Up

-- Who reports what runs. A node without a name reports for its whole cluster; one without an
-- epoch reports now and then, and owes no heartbeat.
CREATE TABLE nodes (
  cluster  {{text}} NOT NULL,
  node     {{text}} NOT NULL,
  epoch    {{text}} NOT NULL,
  sequence BIGINT NOT NULL,
  last     {{text}} NOT NULL, -- the hash of the last change
  heard    {{text}} NOT NULL,
  PRIMARY KEY (cluster, node)
);

-- Which node makes the SBOM of a digest, until when; or, after a failure, until when nobody does.
CREATE TABLE claims (
  digest   {{text}} NOT NULL PRIMARY KEY,
  cluster  {{text}} NOT NULL,
  node     {{text}} NOT NULL,
  until    {{text}} NOT NULL,
  attempts BIGINT NOT NULL,
  failed   BOOLEAN NOT NULL
);
