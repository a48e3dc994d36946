#!/usr/bin/env bash
# Replaces all API replicas by ones of the image that .env names now, one after the other, without a stream losing anything:
# as many new ones are started beside the old ones; when they are ready, the old ones end one by one and tell their cameras to come back.
#
#   docker/roll.sh
#
# Further compose files are those of COMPOSE_FILE, seen from the current folder as everywhere: COMPOSE_FILE=docker/docker-compose.yml:docker/gpu.yml docker/roll.sh
set -euo pipefail
export COMPOSE_FILE=${COMPOSE_FILE:-$(dirname "$0")/docker-compose.yml}
compose=(docker compose ${CRT_ENV_FILE:+--env-file "$CRT_ENV_FILE"})
mapfile -t old < <("${compose[@]}" ps --quiet api)
[ ${#old[@]} -gt 0 ] || { echo "no replica runs; start some: docker compose -f docker/docker-compose.yml up --detach --wait" >&2; exit 1; }
"${compose[@]}" up --detach --no-deps --no-recreate --wait --scale api=$((2 * ${#old[@]})) api
for one in "${old[@]}"; do
  docker stop "$one" > /dev/null  # SIGTERM, and stop_grace_period for what it has begun
  docker rm --volumes "$one" > /dev/null
  echo "replaced ${one:0:12}"
done
