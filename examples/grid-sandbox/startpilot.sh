#!/bin/bash
# Starts a pilot on a worker node of the Grid. The node needs nothing but Python 3.9 or later.
#
#   startpilot.sh [options of local-example.py]
#
# picas and the package couchdb travel with the job: in picas.tar (see build.sh), or in picas.tar and CouchDB-1.2.tar.gz.
# Or they are in the folder that the first line of software.txt names, for example on CVMFS.

fail() { echo "startpilot.sh: $1" >&2; exit "${2:-1}"; }
RESCHEDULE=222  # with this exit code, DIRAC runs the job again, here or on another node
TRY_LATER=75    # the exit code of "picas check" if the database can't be reached at the moment

# DIRAC may have unpacked the archives already.
if [ -f picas.tar ] && [ ! -d picas ]; then
    tar -xf picas.tar || fail "picas.tar can't be unpacked"
fi
software=$PWD
if [ -f software.txt ]; then
    read -r software < software.txt
    [ -d "$software" ] || fail "software.txt names $software, and there is no such folder on this node" $RESCHEDULE
fi

if [ -f CouchDB-1.2.tar.gz ] && [ ! -d CouchDB-1.2 ]; then
    tar -xf CouchDB-1.2.tar.gz || fail "CouchDB-1.2.tar.gz can't be unpacked"
fi
packages=$software:$PWD/CouchDB-1.2  # not exported: tasks must not find the packages of the pilot

for name in "$software/bin/python3" python3 python python3.{14,13,12,11,10,9}; do
    if "$name" -c 'import sys; sys.exit(sys.version_info < (3, 9))' 2>/dev/null; then
        python=$name
        break
    fi
done
[ -n "${python:-}" ] || fail "there is no Python 3.9 or later in $PATH"
search=$packages${PYTHONPATH:+:$PYTHONPATH}
where=$(type -p "$python")
error=$(PYTHONPATH=$search "$python" -c 'import picas' 2>&1) ||
    fail "picas is not installed in $where, and does not travel with this job (${error##*$'\n'}): build picas.tar with build.sh"

echo "startpilot.sh: dirac job ${DIRACJOBID:-$JOBID} on $HOSTNAME, with $where"
chmod 600 picasconfig.py 2>/dev/null  # it holds a password
PYTHONPATH=$search "$python" -m picas.cli check
case $? in
    0) ;;
    $TRY_LATER) fail "DIRAC should run this job again" $RESCHEDULE ;;
    *) fail "no pilot was started" ;;
esac

# Without this file, DIRAC kills a job that uses hardly any processor time, like a pilot that waits for tokens.
touch DISABLE_WATCHDOG_CPU_WALLCLOCK_CHECK

# This runs a script whose modules are in the folders of the first argument.
run='import runpy, sys
sys.path[:1], sys.argv = sys.argv[1].split(":"), sys.argv[2:]
runpy.run_path(sys.argv[0], run_name="__main__")'
# "exec" makes Python the process that DIRAC signals, so that a pilot that must stop can put its token back.
exec "$python" -c "$run" "$PWD:$packages" local-example.py "$@"
