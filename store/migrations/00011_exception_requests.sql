-- +goose Up

-- Exceptions that wait for a second person, and what became of them. None of them is in force
-- before it is approved: then it stands in exceptions.
CREATE TABLE exception_requests (
  id        {{id}},
  name      {{text}} NOT NULL,
  document  {{text}} NOT NULL, -- JSON
  replaces  BOOLEAN NOT NULL,  -- it may take the place of one of its name
  requester {{text}} NOT NULL,
  requested {{text}} NOT NULL,
  state     {{text}} NOT NULL, -- pending, approved, refused
  decider   {{text}} NOT NULL,
  decided   {{text}} NOT NULL, -- '' while it is pending
  reason    {{text}} NOT NULL
);
CREATE INDEX exception_requests_state ON exception_requests (state, id);
