#!/bin/sh
# The databases: `prefect` for Prefect's server, `factscale` for the shared store. The image of PostgreSQL runs this once, on an
# empty volume, with the variables of its service.
set -eu
for database in prefect factscale; do
  psql --set ON_ERROR_STOP=1 --username "$POSTGRES_USER" --dbname postgres --command "CREATE DATABASE $database"
done
