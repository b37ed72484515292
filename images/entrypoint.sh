#!/bin/sh
# Checks the GPUs, then runs what the container is for.
set -eu
[ "${CONCH_PREFLIGHT:-on}" = off ] || sh /opt/conch/preflight.sh
exec "$@"
