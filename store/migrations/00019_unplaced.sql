-- +goose Up

-- Lists and exports tell how many findings have no score, and how many packages could not be looked up. Absent is not
-- counted: of scans that were stored before.
ALTER TABLE images ADD COLUMN unscored BIGINT;
ALTER TABLE images ADD COLUMN unplaced BIGINT;
