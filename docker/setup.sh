#!/usr/bin/env bash
# Makes what docker-compose.yml needs and what is not there yet: .env, secrets, a self-signed certificate. Changes nothing that is there.
#
#   docker/setup.sh minimal|full
#
# CRT_ENV_FILE names another file than docker/.env.
set -euo pipefail
cd "$(dirname "$0")"
profile=${1:-}
case $profile in
  minimal | full) ;;
  *) echo "usage: docker/setup.sh minimal|full" >&2; exit 2 ;;
esac
env=${CRT_ENV_FILE:-.env}
if [ ! -e "$env" ]; then
  sed "s/^COMPOSE_PROFILES=.*/COMPOSE_PROFILES=$profile/" .env.example > "$env"
  echo "made docker/$env: the profile $profile"
elif ! grep -qx "COMPOSE_PROFILES=$profile" "$env"; then
  echo "$env is there and has another profile; set COMPOSE_PROFILES=$profile in it" >&2
  exit 1
fi
[ "$profile" = full ] || exit 0

folder=$(sed -n 's/^CRT_SECRETS_FOLDER=//p' "$env")
folder=${folder:-secrets}
# Nobody else enters the folder; in the containers each program runs as a user of its own, and must be able to read its file.
mkdir -p "$folder"
chmod 700 "$folder"
umask 022
secret() { # name
  [ -e "$folder/$1" ] || { openssl rand -hex 32 > "$folder/$1"; echo "made $folder/$1"; }
}
secret redis_password
secret crt_state_key
secret crt_api_keys
secret grafana_password
if [ ! -e "$folder/redis_users.acl" ]; then
  # Redis knows only the password's digest; the service may touch its own keys only.
  digest=$(tr -d '\n' < "$folder/redis_password" | openssl dgst -sha256 -r | cut -d' ' -f1)
  sed "s/#HASH/#$digest/" redis/users.acl.template > "$folder/redis_users.acl"
  echo "made $folder/redis_users.acl"
fi
if [ ! -e "$folder/tls_key" ]; then
  openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 825 -subj "/CN=crt-stream" \
    -addext "subjectAltName=DNS:localhost,DNS:$(hostname),IP:127.0.0.1" \
    -keyout "$folder/tls_key" -out "$folder/tls_certificate" 2>/dev/null
  chmod 644 "$folder/tls_key"
  echo "made $folder/tls_certificate, self-signed; clients trust it with SSL_CERT_FILE=docker/secrets/tls_certificate"
fi
echo "a client's key is in $folder/crt_api_keys"
