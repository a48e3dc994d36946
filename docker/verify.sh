#!/usr/bin/env bash
# Runs what docker-compose.yml promises, for real: 16 live cameras through the proxy, while replicas are killed, Redis is restarted and killed,
# replicas come and go, and all are replaced by ones of a new image. Labels must be those of an undisturbed run, and no frame may be lost.
#
#   docker/verify.sh [FRAMES of each camera, 25 a second; by default 3500]
#
# Needs Docker with compose, openssl, curl and .venv (make develop). Listens on 127.0.0.1 only. Takes some five minutes after the build.
set -euo pipefail
cd "$(dirname "$0")/.."
frames=${1:-3500}
work=$(mktemp -d)
export CRT_ENV_FILE=$work/env PYTHONPATH=$PWD
port=${CRT_VERIFY_PORT:-18443}
images="$(sed -n 's/^#*\(GRAFANA_IMAGE\)=//p' docker/.env.example)"

cat > "$CRT_ENV_FILE" <<ENV
COMPOSE_PROFILES=full
CRT_PROJECT=crt-verify
CRT_IMAGE=crt-stream:verify
CRT_SECRETS_FOLDER=$work/secrets
TLS_CERTIFICATE=$work/secrets/tls_certificate
TLS_KEY=$work/secrets/tls_key
CRT_BUILD_NETWORK=${CRT_BUILD_NETWORK:-default}
CRT_HTTPS_ADDRESS=127.0.0.1:$port
CRT_HTTP_ADDRESS=127.0.0.1:$((port + 1))
PROMETHEUS_ADDRESS=127.0.0.1:$((port + 2))
GRAFANA_ADDRESS=127.0.0.1:$((port + 3))
CRT_HOME_ADDRESS=127.0.0.1:$((port + 4))
CRT_REPLICAS=1
# The cameras here are on the same cores, and come all at once.
CRT_STREAMS_SHARE=0
ENV
export COMPOSE_FILE=docker/docker-compose.yml  # for roll.sh, whatever the shell has
compose() { docker compose -f docker/docker-compose.yml --env-file "$CRT_ENV_FILE" "$@"; }
quietly() { "$@" > "$work/log" 2>&1 || { tail -30 "$work/log"; return 1; }; }
say() { printf '\n[%4d s] %s\n' $((SECONDS - began)) "$*"; }
began=$SECONDS
end() {
  status=$?
  [ $status = 0 ] || { echo "FAILED"; compose logs --tail 12 api redis proxy 2> /dev/null | cut -c 1-400; }
  compose --profile minimal --profile full down --volumes --timeout 5 > /dev/null 2>&1 || true
  rm -rf "$work"
  exit $status
}
trap end EXIT
replicas() { compose ps --quiet api; }
streams_of() { docker exec "$1" python -c "
from urllib.request import urlopen
print(next(line.split()[1] for line in urlopen('http://127.0.0.1:8000/metrics', timeout=5).read().decode().splitlines() if line.startswith('crt_live_streams ')))" 2> /dev/null || echo 0; }
held() { echo "  streams by replica: $(for one in $(replicas); do printf '%.0f ' "$(streams_of "$one")"; done)"; }
fullest() { for one in $(replicas); do echo "$(streams_of "$one") $one"; done | sort -rn | cut -d' ' -f2; }
# A crash: the kernel ends all of the container's processes but its init, which then ends by itself, and Docker starts it again.
crash() { docker exec "$1" sh -c 'kill -9 -1' 2> /dev/null || true; }
streams() { SSL_CERT_FILE=$work/secrets/tls_certificate .venv/bin/python docker/verify/streams.py "$server" "$@" --frames "$frames" --key-file "$work/secrets/crt_api_keys"; }
server=https://localhost:$port
ask() { curl -sS --cacert "$work/secrets/tls_certificate" "$@"; }
expect() { # what, wanted, found
  if [ "$2" = "$3" ]; then echo "  $1: $3"; else echo "  $1: $3, not $2"; return 1; fi
}

say "images"
quietly compose build home
docker tag crt-stream:verify crt-stream:verify-old
quietly env CRT_REVISION=new docker compose -f docker/docker-compose.yml --env-file <(sed 's/crt-stream:verify/crt-stream:verify-new/' "$CRT_ENV_FILE") build home
docker image inspect -f '  {{index .RepoTags 0}} {{.Size}} bytes, user {{.Config.User}}' crt-stream:verify

say "profile minimal"
quietly compose --profile minimal up --detach --wait home
ask -F video=@examples/kitchen.mp4 "http://127.0.0.1:$((port + 4))/v1/clips?top_k=1" | .venv/bin/python -c '
import json, sys
print("  labels of the example:", ", ".join(dict.fromkeys(one["label"] for one in json.load(sys.stdin)["events"])))'
quietly compose --profile minimal stop home
quietly compose --profile minimal rm --force home

say "profile full"
docker/setup.sh full | sed 's/^/  /'
up=(api redis proxy prometheus)
if docker image inspect "$images" > /dev/null 2>&1 || docker pull --quiet "$images" > /dev/null 2>&1; then up+=(grafana); else echo "  no image of Grafana can be had here; its queries are put to Prometheus below"; fi
at=$SECONDS
quietly compose up --detach --wait "${up[@]}"
echo "  all healthy after $((SECONDS - at)) s"
key=$(cat "$work/secrets/crt_api_keys")
expect "without a key" 401 "$(ask -o "$work/out" -w '%{http_code}' "$server/v1/model")"
expect "with one" 200 "$(ask -o "$work/out" -w '%{http_code}' -H "Authorization: Bearer $key" "$server/v1/model")"
expect "metrics through the proxy" 404 "$(ask -o "$work/out" -w '%{http_code}' "$server/metrics")"
expect "plain HTTP" 308 "$(curl -sS -o "$work/out" -w '%{http_code}' "http://127.0.0.1:$((port + 1))/v1/model")"
expect "an upload of more than 4 GiB" 413 "$(ask -o "$work/out" -w '%{http_code}' -H "Authorization: Bearer $key" -H 'Content-Length: 5000000000' -H 'Content-Type: video/mp4' -X POST "$server/v1/clips" || true)"
ask -N -H "Authorization: Bearer $key" -H 'Accept: application/x-ndjson' -F video=@examples/kitchen.mp4 "$server/v1/clips" |
  while read -r line; do printf '%s %.40s\n' "$(date +%s.%N)" "$line"; done > "$work/lines"
awk 'NR == 1 {first = $1} {last = $1} END {printf "  %d lines of labels, the first %.2f s before the last\n", NR, last - first; exit !(last - first > 0.1)}' "$work/lines"

say "undisturbed: 16 cameras, as fast as they may"
streams "$work/reference.json" --name undisturbed

say "live: 16 cameras, while everything else happens"
streams "$work/live.json" --name live --live --same-as "$work/reference.json" > "$work/live.log" 2>&1 &
cameras=$!
pause=$((frames / 25 / 16))
step() { kill -0 $cameras 2> /dev/null || { cat "$work/live.log"; echo "the cameras have ended before: $*"; return 1; }; sleep "$pause"; say "$@"; }
step "kill -9 of the only replica"; crash "$(replicas)"
step "scale from 1 to 3"; quietly compose up --detach --no-deps --no-recreate --wait --scale api=3 api
step "kill -9 of the one that has the streams, of three"; held; crash "$(fullest | head -n 1)"
step "kill -9 of the two that have the most"; held; for one in $(fullest | head -n 2); do crash "$one"; done
step "restart of Redis"; held; quietly compose restart redis
step "kill -9 of Redis"; docker kill --signal KILL "$(compose ps --quiet redis)" > /dev/null; sleep 3; quietly compose up --detach --no-deps --wait redis
step "scale from 3 to 1"; held; quietly compose up --detach --no-deps --no-recreate --wait --scale api=1 api
step "rolling restart with a new image"
sed -i 's/^CRT_IMAGE=.*/CRT_IMAGE=crt-stream:verify-new/' "$CRT_ENV_FILE"
quietly docker/roll.sh
expect "image of the replicas" crt-stream:verify-new "$(docker inspect -f '{{.Config.Image}}' $(replicas) | sort -u)"
step "one more client for a stream that has one"
SSL_CERT_FILE=$work/secrets/tls_certificate CRT_CLIENT_KEY=$key .venv/bin/python -m app.client examples/kitchen.mp4 --stream live-0 --client other --server "$server" 2>&1 | sed 's/^/  /' || true
step "every question of the dashboard and the alerts, to Prometheus"
.venv/bin/python docker/verify/queries.py "http://127.0.0.1:$((port + 2))" | sed 's/^/  /'
say "the cameras"
wait $cameras || { cat "$work/live.log"; exit 1; }
cat "$work/live.log"
say "all as promised"
