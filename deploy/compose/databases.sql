-- Run by the image of PostgreSQL when its volume is empty: the application's database (the shop of docs/examples), and Dagster's own.
\set ON_ERROR_STOP on
\set app `cat /etc/sbh/secrets/postgres-app`
\set backup `cat /etc/sbh/secrets/postgres-backup`
\set restore `cat /etc/sbh/secrets/postgres-restore`
\set dagster `cat /etc/sbh/secrets/postgres-dagster`

CREATE ROLE app LOGIN PASSWORD :'app';
CREATE ROLE dagster LOGIN PASSWORD :'dagster';
CREATE ROLE sbh_backup LOGIN PASSWORD :'backup' BYPASSRLS;
CREATE ROLE sbh_restore LOGIN PASSWORD :'restore' BYPASSRLS CREATEDB;
GRANT pg_read_all_data TO sbh_backup;
GRANT pg_read_all_data, pg_write_all_data TO sbh_restore;
GRANT SET ON PARAMETER session_replication_role TO sbh_restore;

CREATE DATABASE dagster OWNER dagster;
CREATE DATABASE app OWNER app;
GRANT TEMPORARY, CREATE ON DATABASE app TO sbh_restore;

\connect app
SET ROLE app;
\i /etc/sbh/shop.sql
