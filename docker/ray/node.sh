#!/usr/bin/env bash
# A node of the Ray cluster, in the foreground, reached at one address of this machine only.
#
#   docker/ray/node.sh head ADDRESS [more options of `ray start`]
#   docker/ray/node.sh worker HEAD_ADDRESS:6379 ADDRESS [more options]
#
# Ray's processes listen on all addresses, whatever they are told, and whoever reaches them can run programs. So a packet filter drops what is
# for another address than ADDRESS (or 127.0.0.0/8), which needs root; or the node has a network of its own, as in a container, and
# RAY_ISOLATED=1 says so. More nodes on one machine: PORTS=6500 gives this one the hundred ports from there.
set -euo pipefail
kind=${1:-} first=${PORTS:-6379}
case $kind in
  head) address=${2:?address}; shift 2; join=(--head --port="$first" --ray-client-server-port=$((first + 9)) --include-dashboard=false) ;;
  worker) join=(--address="${2:?head}"); address=${3:?address}; shift 3 ;;
  *) sed -n '2,10s/^# \{0,1\}//p' "$0" >&2; exit 2 ;;
esac
last=$((first + 99))
if [ "${RAY_ISOLATED:-}" != 1 ]; then
  # A Serve replica also takes any free port. Only connections that come in are dropped; the sets have what other nodes of this machine added.
  read -r low high < /proc/sys/net/ipv4/ip_local_port_range
  nft -f - <<RULES || { echo "the packet filter cannot be set (nftables, as root); or give the node a network of its own and RAY_ISOLATED=1" >&2; exit 1; }
table inet crt_ray {
  set addresses { type ipv4_addr; flags interval; auto-merge; elements = { 127.0.0.0/8, $address }; }
  set ports { type inet_service; flags interval; auto-merge; elements = { $first-$last, $low-$high }; }
  chain input { type filter hook input priority filter; }
}
flush chain inet crt_ray input
table inet crt_ray {
  chain input {
    tcp flags & (syn | ack) == syn tcp dport @ports meta nfproto ipv6 ip6 daddr != ::1 drop
    tcp flags & (syn | ack) == syn tcp dport @ports meta nfproto ipv4 ip daddr != @addresses drop
  }
}
RULES
fi
export RAY_USAGE_STATS_ENABLED=0 RAY_METRICS_ENABLED=${RAY_METRICS_ENABLED:-0} ORT_DISABLE_TELEMETRY=1
export AUTOSCALER_METRIC_PORT=$((first + 7)) DASHBOARD_METRIC_PORT=$((first + 8))
# The folder above docker/: what replicas import.
root=$(cd "$(dirname "$0")/../.." && pwd)
export PYTHONPATH=$root${PYTHONPATH:+:$PYTHONPATH}
cd "$root"
exec "${RAY:-ray}" start "${join[@]}" --block --disable-usage-stats --node-ip-address="$address" \
  --node-manager-port=$((first + 1)) --object-manager-port=$((first + 2)) --metrics-export-port=$((first + 3)) \
  --runtime-env-agent-port=$((first + 4)) --dashboard-agent-grpc-port=$((first + 5)) --dashboard-agent-listen-port=$((first + 6)) \
  --min-worker-port=$((first + 20)) --max-worker-port="$last" "$@"
