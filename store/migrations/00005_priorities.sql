-- +goose Up
-- What the order of actions is made of: the newest scan of an image, without texts and places.
CREATE TABLE briefs (
  image_id BIGINT NOT NULL PRIMARY KEY REFERENCES images (id) ON DELETE CASCADE,
  version  BIGINT NOT NULL, -- the scan that changed it
  document {{blob}} NOT NULL -- JSON of a scan, zstd
);
-- Grows with each classification of the listing, also where the result stays.
ALTER TABLE listings ADD COLUMN judged BIGINT NOT NULL DEFAULT 0;
CREATE INDEX listings_judged ON listings (judged);
CREATE INDEX instances_places ON instances (listing_id, cluster, namespace);
