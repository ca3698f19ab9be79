#!/bin/sh
# Run once by the image of PostgreSQL, when its volume is empty (docker-entrypoint-initdb.d). Makes the role and the database
# of the replicas. The role is no superuser. The superuser 'postgres' loses its password, so that it can connect inside the
# container only.
set -eu
exec psql --no-psqlrc --quiet --set ON_ERROR_STOP=1 --username postgres --dbname postgres <<'SQL'
\getenv password POSTGRES_PASSWORD
CREATE ROLE agentrouter LOGIN PASSWORD :'password';
CREATE DATABASE agentrouter OWNER agentrouter ENCODING 'UTF8' TEMPLATE template0;
ALTER ROLE postgres PASSWORD NULL;
SQL
