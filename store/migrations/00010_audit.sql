-- +goose Up

-- Who changed what people decide, from where, and how: written with the change, never changed.
CREATE TABLE audit (
  id      {{id}},
  at      {{text}} NOT NULL,
  who     {{text}} NOT NULL,
  via     {{text}} NOT NULL, -- the authenticator
  address {{text}} NOT NULL,
  action  {{text}} NOT NULL,
  kind    {{text}} NOT NULL,
  name    {{text}} NOT NULL,
  before  {{text}} NOT NULL, -- JSON; '' is nothing
  after   {{text}} NOT NULL
);
CREATE INDEX audit_at ON audit (at);
CREATE INDEX audit_subject ON audit (kind, name, id);
CREATE INDEX audit_who ON audit (who, id);
