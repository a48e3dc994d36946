#!/usr/bin/env bash
# Installs the servers, tools and the browser that tests start for themselves, where this user may; says by name what is missing where not.
set -euo pipefail
declare -A packages=(
  [redis-server]=redis-server [chromium]=chromium [nginx]=nginx-light [promtool]=prometheus [openssl]=openssl
  [ip]=iproute2 [nft]=nftables [kubectl]=kubernetes-client
)
PATH=$PATH:/usr/sbin:/sbin
missing=()
for program in "${!packages[@]}"; do
  command -v "$program" >/dev/null || missing+=("${packages[$program]}")
done
[ ${#missing[@]} -eq 0 ] && exit 0
if ! command -v apt-get >/dev/null; then how=()
elif [ "$(id -u)" = 0 ]; then how=(env)
elif command -v sudo >/dev/null && sudo -n true 2>/dev/null; then how=(sudo -n)
else how=(); fi
install() { "${how[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@" >/dev/null; }
if [ ${#how[@]} -gt 0 ] && "${how[@]}" apt-get update -qq; then
  install "${missing[@]}" && exit 0
  left=() # one that this system does not have keeps no other from coming
  for package in "${missing[@]}"; do install "$package" || left+=("$package"); done
  missing=("${left[@]}")
fi
echo "Tests that need these packages are skipped, as they cannot be installed here: ${missing[*]}" >&2
