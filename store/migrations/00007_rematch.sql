-- +goose Up

-- When an SBOM was matched last, and with what. Beside the SBOMs, since what is
-- written often must not drag their documents along.
CREATE TABLE matches (
  image_id   BIGINT NOT NULL PRIMARY KEY REFERENCES sboms (image_id) ON DELETE CASCADE,
  matched_at {{text}} NOT NULL DEFAULT '', -- '' is never
  checksum   {{text}} NOT NULL DEFAULT '', -- of the database whose answer it still is
  built      {{text}} NOT NULL DEFAULT '', -- when that database was built
  matcher    {{text}} NOT NULL DEFAULT '', -- the version of what matched
  error      {{text}} NOT NULL DEFAULT '',
  urgent     BOOLEAN NOT NULL DEFAULT FALSE -- a new database may find another vulnerability
);
CREATE INDEX matches_due ON matches (urgent DESC, matched_at, image_id);
INSERT INTO matches (image_id, matched_at, checksum, error) SELECT image_id, matched_at, checksum, error FROM sboms;
DROP INDEX sboms_matched;
ALTER TABLE sboms DROP COLUMN matched_at;
ALTER TABLE sboms DROP COLUMN checksum;
ALTER TABLE sboms DROP COLUMN error;

-- What matching needs of an SBOM.
CREATE TABLE compacts (
  image_id BIGINT NOT NULL PRIMARY KEY REFERENCES sboms (image_id) ON DELETE CASCADE,
  packages {{blob}} NOT NULL -- zstd
);

-- What was looked up in a vulnerability database for a package.
CREATE TABLE searches (
  key        {{text}} NOT NULL,
  package_id BIGINT NOT NULL,
  PRIMARY KEY (key, package_id)
){{rowless}};
