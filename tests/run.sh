#!/bin/bash
# Runs the tests: run.sh [--install] [unit|pool|pilot|processes|batch|cli|browser|pages ...] [arguments of pytest]
#
#   tests/run.sh --install   install what the machine lacks (as root on Debian: python3-venv, Slurm, DIRAC, Chromium), run
#                          everything
#   tests/run.sh             run everything; tests whose programs are missing are skipped, and the summary says why
#   tests/run.sh unit        run the fast tier, which needs no server, no Node.js and less than a minute
#
# The words name folders below tests/. The Python packages go into a virtual environment below .venv/.
# Environment variables:
#   PYTHON               the Python to test with (default: python3)
#   PICAS_TEST_URL       a CouchDB to test against instead of the embedded server: http://admin:password@127.0.0.1:5984
#   PICAS_TEST_REQUIRE   the parts that must not be skipped: "slurm dirac browser", or some of them
set -euo pipefail
cd "$(dirname "$0")/.."

install=
folders=
while [ $# -gt 0 ]; do
    case $1 in
        --install) install=yes ;;
        unit | pool | pilot | processes | batch | cli | browser | pages) folders="$folders tests/$1" ;;
        *) break ;;
    esac
    shift
done

python=${PYTHON:-python3}
if ! version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2]); sys.exit(sys.version_info < (3, 9))'); then
    echo "run.sh: Python 3.9 or later is needed; name one with PYTHON=…" >&2
    exit 1
fi

can_install() {
    [ "$install" ] && [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null
}

apt_install() {
    apt-get update -q && DEBIAN_FRONTEND=noninteractive apt-get install -yq "$@"
}

if [ "$install" ] && ! can_install; then
    echo "run.sh: only root on Debian can install Slurm, DIRAC and Chromium; without them their tests are skipped" >&2
fi

extras=cli,embedded,legacy,notify,report,test,web
[ "$folders" != " tests/unit" ] || extras=cli,legacy,report,test,web
venv=$PWD/.venv/test-$version
installed=$venv/installed-$extras
if [ ! -e "$installed" ] || [ setup.py -nt "$installed" ]; then
    if can_install && ! "$python" -c 'import ensurepip' 2>/dev/null; then
        apt_install python3-venv
    fi
    "$python" -m venv "$venv"
    "$venv/bin/pip" install --quiet --disable-pip-version-check --editable ".[$extras]"
    touch "$installed"
fi

if can_install; then
    if ! PATH=$PATH:/usr/sbin command -v slurmctld >/dev/null; then
        apt_install slurm-wlm || echo "run.sh: Slurm could not be installed" >&2
    fi
    if ! command -v chromium >/dev/null; then
        apt_install --no-install-recommends chromium || echo "run.sh: Chromium could not be installed" >&2
    fi
    "$venv/bin/python" tests/support/dirac_site.py install || echo "run.sh: DIRAC could not be installed" >&2
fi

# Coverage is measured, and must be high enough, in a whole run only: it slows the tests down.
[ "$folders" ] || [ $# -gt 0 ] || set -- --cov --cov-report=term:skip-covered --cov-fail-under=90
# The tests of a file share one worker: those of Slurm and DIRAC share a cluster and a site. Tests wait more than they compute, so there is one worker
# more than processors; but more than four disturb tests that depend on time.
# The folders come in their order: pytest-xdist would leave the files with few but long tests, of Slurm and DIRAC, to the end.
# A worker that hung is not replaced: the next one would run the same test again.
workers=$("$venv/bin/python" -c 'import os; print(min(4, 1 + (os.cpu_count() or 1)))')
# shellcheck disable=SC2086
exec "$venv/bin/python" -m pytest --numprocesses "$workers" --max-worker-restart 0 --dist loadfile --no-loadscope-reorder $folders "$@"
