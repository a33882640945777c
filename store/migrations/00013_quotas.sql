-- +goose Up

-- What rows take, as it was counted when they were written, for the quota of who handed them in.
ALTER TABLE scans ADD COLUMN bytes BIGINT NOT NULL DEFAULT 0;
ALTER TABLE matches ADD COLUMN bytes BIGINT NOT NULL DEFAULT 0; -- of the SBOM
ALTER TABLE indexes ADD COLUMN bytes BIGINT NOT NULL DEFAULT 0;
ALTER TABLE nodes ADD COLUMN identity {{text}} NOT NULL DEFAULT 'before origin';

-- Digests and names that somebody handed something in of, until nothing of them is kept.
CREATE TABLE holdings (
  identity {{text}} NOT NULL,
  kind     {{text}} NOT NULL, -- digest or name
  key      {{text}} NOT NULL,
  PRIMARY KEY (identity, kind, key)
){{rowless}};
CREATE INDEX holdings_key ON holdings (key);

-- How many of them there are, and what all takes: at least, and exact once it was counted anew.
CREATE TABLE usages (
  identity {{text}} NOT NULL PRIMARY KEY,
  digests  BIGINT NOT NULL,
  names    BIGINT NOT NULL,
  bytes    BIGINT NOT NULL
);
