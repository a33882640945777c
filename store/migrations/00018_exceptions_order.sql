-- +goose Up

-- The list of exceptions is read page by page: by their end, those without one last, then by CVE and name.
CREATE INDEX exceptions_order ON exceptions ((CASE WHEN expires = '' THEN '~' ELSE expires END), cve, name);
DROP INDEX exceptions_expires;
