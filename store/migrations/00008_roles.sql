-- +goose Up

-- Scanners from before nodes and webhooks had roles of their own: for one release they keep their routes.
ALTER TABLE tokens ADD COLUMN legacy BOOLEAN NOT NULL DEFAULT FALSE;
UPDATE tokens SET legacy = TRUE WHERE role = 'scanner';
