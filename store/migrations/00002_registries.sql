-- +goose Up
-- When the registries that are listed from time to time were listed last.
CREATE TABLE registries (
  registry {{text}} NOT NULL PRIMARY KEY,
  settings {{text}} NOT NULL, -- SHA-256 of what is wanted of it
  tried    {{text}} NOT NULL,
  finished {{text}} NOT NULL, -- with these settings; '' is never
  names    BIGINT NOT NULL,
  error    {{text}} NOT NULL
);
