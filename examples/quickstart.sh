#!/bin/bash
# Runs the whole quick example: installs picas in a virtual environment, starts the embedded server (or uses the server
# that is set in the environment), creates the views, pushes three tokens and processes them.
#
#   quickstart.sh [--keep]
#
# With --keep, the embedded server stays up afterwards, and keeps its data in a folder.
set -euo pipefail
cd "$(dirname "$0")"
root=$(cd .. && pwd)

keep=no
case ${1:-} in
    "") ;;
    --keep) keep=yes ;;
    -h | --help) sed -n '2,/^set/s/^# \{0,1\}//p' quickstart.sh; exit 0 ;;
    *) echo "quickstart.sh: unknown option $1; the only one is --keep" >&2; exit 2 ;;
esac

python=${PYTHON:-python3}
if ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 9))' 2>/dev/null; then
    echo "quickstart.sh: Python 3.9 or later is needed; name one with PYTHON=…" >&2
    exit 1
fi

venv=$root/.venv/quickstart
if [ ! -x "$venv/bin/picas" ] || [ "$root/setup.py" -nt "$venv/bin/picas" ]; then
    echo "== Installing picas in $venv"
    if ! "$python" -m venv "$venv" >/dev/null 2>&1; then
        rm -rf "$venv"
        echo "quickstart.sh: $python can't create a virtual environment; on Debian: apt-get install python3-venv" >&2
        exit 1
    fi
    "$venv/bin/pip" install --quiet --disable-pip-version-check --editable "${root}[embedded]"
    touch "$venv/bin/picas"
fi
PATH=$venv/bin:$PATH

web=
again=
if [ -n "${PICAS_HOST_URL:-}" ]; then
    echo "== Using the server that is set in the environment"
    again=--again  # an earlier run may have pushed the same tokens
else
    echo "== Starting the embedded server (the first start takes some seconds, to download its packages)"
    ready=$venv/server-$$.env
    data=$(mktemp -d "$venv/data-XXXXXX")
    picas serve --data "$data" --ready-file "$ready" >"$venv/server-$$.log" 2>&1 &
    server=$!
    stop_server() {
        kill "$server" 2>/dev/null || true
        wait "$server" 2>/dev/null || true
        rm -rf "$venv/server-$$.log" "$ready" "$data"
    }
    trap stop_server EXIT
    while [ ! -s "$ready" ]; do
        if ! kill -0 "$server" 2>/dev/null; then
            cat "$venv/server-$$.log" >&2
            exit 1
        fi
        sleep 0.1
    done
    unset PICAS_PASSWORD
    # shellcheck disable=SC1090
    . "$ready"
    web=$PICAS_HOST_URL/_utils/
fi

echo "== picas views"
picas views --create-database
echo "== picas push ${again:+$again }quickExample.txt"
picas push ${again:+"$again"} quickExample.txt
echo "== picas run"
picas run
echo "== picas status"
picas status

if [ -n "$web" ]; then
    echo
    if [ "$keep" = yes ]; then
        trap - EXIT
        echo "The server is still running (to stop it: kill $server). Web interface: $web"
        echo "To use it from this shell: . $ready"
        echo "To start it again, with the same settings: $venv/bin/picas serve --data $data"
    else
        echo "The server stops now; with --keep it stays up, with a web interface at $web"
    fi
fi
