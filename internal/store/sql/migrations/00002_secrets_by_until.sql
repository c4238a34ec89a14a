-- +goose Up
CREATE INDEX secrets_by_until ON secrets (until);
