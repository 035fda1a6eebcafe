#!/bin/sh
# Make or update the environment in .venv: the packages of requirements.lock, checked by hash, and the project's own, editable.
# Usage: sh tools/setup.sh UV_VERSION
set -eu
python=""
for candidate in python3.13 python3.12 python3.11 python3.14 python3; do
  if command -v "$candidate" >/dev/null 2>&1 &&
    "$candidate" -c 'import sys; raise SystemExit(sys.version_info < (3, 11))' 2>/dev/null; then
    python=$candidate
    break
  fi
done
if [ -z "$python" ]; then
  echo "error: no Python 3.11 or newer was found on PATH; install one, then run the same command again" >&2
  exit 3
fi
here=$(pwd -P)
if [ "$(cat .venv/.place 2>/dev/null)" != "$here" ] || [ ! -x .venv/bin/uv ] ||
  [ "$(.venv/bin/uv --version | cut -d' ' -f2)" != "$1" ]; then
  echo "setup 1/3: virtual environment in .venv ($("$python" --version)), uv $1"
  "$python" -m venv --clear .venv
  .venv/bin/python -m pip install --quiet --disable-pip-version-check "uv==$1"
  printf '%s\n' "$here" > .venv/.place
fi
export VIRTUAL_ENV="$PWD/.venv"
echo "setup 2/3: packages of requirements.lock (about 6 GB the first time, mostly torch)"
.venv/bin/uv pip install --require-hashes --requirements requirements.lock
echo "setup 3/3: the project's own packages, editable"
members=""
for project in packages/*/pyproject.toml stages/*/pyproject.toml; do
  members="$members --editable ./${project%/pyproject.toml}"
done
# shellcheck disable=SC2086 # the list is meant to be split; its paths are relative and have no spaces
.venv/bin/uv pip install --quiet --no-deps $members
.venv/bin/dcnas device
echo "setup done"
