#!/usr/bin/env bash
# Makes .venv with the packages of one requirements file. PYTHON names another interpreter than the newest found.
set -euo pipefail
cd "$(dirname "$0")/.."
requirements=$1

suits() { "$1" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2])' 2>/dev/null; }
python=${PYTHON:-}
if [ -z "$python" ]; then
  for candidate in python3 python3.13 python3.12 python3.11; do
    if suits "$candidate"; then python=$candidate; break; fi
  done
fi
if [ -z "$python" ] || ! suits "$python"; then
  echo "crt-stream needs Python 3.11 or newer; found ${python:-none}. On Debian or Ubuntu: apt-get install python3 python3-venv" >&2
  exit 1
fi

if [ ! -x .venv/bin/python ] || ! .venv/bin/python -m pip --version >/dev/null 2>&1; then
  rm -rf .venv
  # Debian keeps ensurepip in a package of its own.
  if ! "$python" -c 'import ensurepip' 2>/dev/null; then
    package="python$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')-venv"
    if [ "$(id -u)" = 0 ]; then apt-get update -qq && apt-get install -y -qq --no-install-recommends "$package"
    elif command -v sudo >/dev/null; then sudo apt-get update -qq && sudo apt-get install -y -qq --no-install-recommends "$package"
    else echo "Python's venv is missing, and this user may not install it. Ask for: apt-get install $package" >&2; exit 1; fi
  fi
  echo "Making .venv with $("$python" --version)"
  "$python" -m venv .venv
fi
echo "Installing $requirements (the first time takes a few minutes: PyTorch is large)"
.venv/bin/python -m pip install --quiet --disable-pip-version-check --progress-bar off -r "$requirements"
