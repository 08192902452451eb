#!/bin/bash
# Runs all tests: run.sh [--grid] [arguments of pytest]
#
# Makes a virtual environment and installs in it what the tests need, and on Debian, for root, also Slurm, and with --grid
# DIRAC. PYTHON names the Python to test with; PICAS_TEST_URL a CouchDB to test against instead of the embedded server, e.g.
# http://admin:password@127.0.0.1:5984; PICAS_TEST_REQUIRE what must be there rather than have its tests skipped:
# "slurm dirac", or one of them
set -euo pipefail
cd "$(dirname "$0")/.."

grid=
if [ "${1:-}" = --grid ]; then
    grid=yes
    shift
fi

python=${PYTHON:-python3}
if ! version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2]); sys.exit(sys.version_info < (3, 9))'); then
    echo "run.sh: Python 3.9 or later is needed; name one with PYTHON=…" >&2
    exit 1
fi

venv=$PWD/.venv/test-$version
if [ ! -e "$venv/installed" ] || [ setup.py -nt "$venv/installed" ]; then
    if ! "$python" -c 'import ensurepip' 2>/dev/null && [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
        apt-get update -q && apt-get install -yq python3-venv
    fi
    "$python" -m venv "$venv"
    "$venv/bin/pip" install --quiet --disable-pip-version-check --editable '.[embedded,test]'
    touch "$venv/installed"
fi

if ! PATH=$PATH:/usr/sbin command -v slurmctld >/dev/null && [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    { apt-get update -q && DEBIAN_FRONTEND=noninteractive apt-get install -yq slurm-wlm; } ||
        echo "run.sh: Slurm could not be installed; its tests are skipped" >&2
fi

if [ "$grid" ]; then
    "$venv/bin/python" tests/support/dirac_site.py install ||
        echo "run.sh: DIRAC could not be installed; its tests are skipped" >&2
fi

# Below this share of lines a whole run fails; a run of some tests does not.
[ $# -gt 0 ] || set -- --cov-fail-under=90
exec "$venv/bin/python" -m pytest --cov --cov-report=term:skip-covered "$@"
