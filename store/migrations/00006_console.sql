-- +goose Up

-- How many images of each result there were, the last time that was looked at on a day (UTC).
CREATE TABLE trend (
  day     {{text}} NOT NULL,
  running BOOLEAN NOT NULL, -- only those that run
  result  {{text}} NOT NULL,
  images  BIGINT NOT NULL,
  PRIMARY KEY (day, running, result)
);

-- Addresses of pages that a user keeps.
CREATE TABLE views (
  owner   {{text}} NOT NULL,
  name    {{text}} NOT NULL,
  address {{text}} NOT NULL,
  PRIMARY KEY (owner, name)
);

-- How often a rule of a policy decided about an image, in recorded decisions.
CREATE TABLE rule_hits (
  policy {{text}} NOT NULL,
  rule   BIGINT NOT NULL,
  images BIGINT NOT NULL,
  last   {{text}} NOT NULL,
  PRIMARY KEY (policy, rule)
);
