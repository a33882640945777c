-- +goose Up

-- What an event is (docs/design/033): a scan or a change of result, or an image that begins or ceases to run; of which listing,
-- and, of a scan, which one, and whether it was handed in, is the server's own matching of what was handed in, or both in one.
ALTER TABLE events ADD COLUMN type {{text}} NOT NULL DEFAULT 'image_detection';
ALTER TABLE events ADD COLUMN listing_id BIGINT;
ALTER TABLE events ADD COLUMN scan_id BIGINT;
ALTER TABLE events ADD COLUMN part {{text}} NOT NULL DEFAULT ''; -- upload, match, both or rematch; '' is no scan
UPDATE events SET listing_id = (SELECT MIN(l.id) FROM listings l WHERE l.image = events.image AND l.tag = COALESCE(events.tag, '') AND l.digest = COALESCE(events.digest, ''));
CREATE INDEX events_listing ON events (listing_id, id);
CREATE INDEX events_scans ON events (listing_id, id) WHERE part <> '';

-- Why a listing must be classified: '' is any reason, match and rematch are of the scan, begins and ceases of a place.
ALTER TABLE work ADD COLUMN cause {{text}} NOT NULL DEFAULT '';
ALTER TABLE work ADD COLUMN cluster {{text}} NOT NULL DEFAULT '';
ALTER TABLE work ADD COLUMN namespace {{text}} NOT NULL DEFAULT '';

-- What fails to be scanned by its name alone may run.
CREATE INDEX instances_name ON instances (name, tag);
