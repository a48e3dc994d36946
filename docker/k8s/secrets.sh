#!/usr/bin/env bash
# Prints the secrets that the manifests ask for, from the files that `docker/setup.sh full` makes:
#
#   docker/k8s/secrets.sh | kubectl apply --filename -
set -euo pipefail
folder=${1:-$(dirname "$0")/../secrets}
secret() { # name, files
  local name=$1; shift
  printf -- '---\napiVersion: v1\nkind: Secret\nmetadata: {name: %s, namespace: crt-stream}\ntype: Opaque\ndata:\n' "$name"
  for file in "$@"; do printf '  %s: %s\n' "$file" "$(base64 -w 0 < "$folder/$file")"; done
}
secret api redis_password crt_state_key crt_api_keys
secret redis redis_users.acl
