#!/bin/bash
# Starts a pilot on a worker node of the Grid, which needs to have no more than a Python from 3.9 on:
#
#   startpilot.sh [options of local-example.py]
#
# picas and what it imports come with the job in picas.tar (see build.sh), or lie in the folder whose name is the first
# line of software.txt, for example on CVMFS.

fail() { echo "startpilot.sh: $1" >&2; exit "${2:-1}"; }
RESCHEDULE=222  # tells DIRAC to try this job again, on this node or another
TRY_LATER=75    # what "picas check" ends with if the way to the database is out of order

# DIRAC may have unpacked the archives already.
if [ -f picas.tar ] && [ ! -d picas ]; then
    tar -xf picas.tar || fail "picas.tar can't be unpacked"
fi
software=$PWD
if [ -f software.txt ]; then
    read -r software < software.txt
    [ -d "$software" ] || fail "there is no folder $software on this node, which software.txt names" $RESCHEDULE
fi

# With its own CouchDB: earlier releases sent CouchDB-1.2.tar.gz beside picas.tar.
[ -f CouchDB-1.2.tar.gz ] && [ ! -d CouchDB-1.2 ] && tar -xf CouchDB-1.2.tar.gz
export PYTHONPATH=$software:$PWD/CouchDB-1.2${PYTHONPATH:+:$PYTHONPATH}
export PATH=$software/bin:$PATH  # that of a virtual environment

for name in python3 python python3.{14,13,12,11,10,9}; do
    if "$name" -c 'import sys; sys.exit(sys.version_info < (3, 9))' 2>/dev/null; then
        python=$name
        break
    fi
done
[ -n "${python:-}" ] || fail "there is no Python from 3.9 on in $PATH"
"$python" -c 'import picas' || fail "picas can't be imported: make picas.tar with build.sh"

chmod 600 picasconfig.py 2>/dev/null  # it holds a password
"$python" -m picas.cli check
case $? in
    0) ;;
    $TRY_LATER) fail "so DIRAC is to try this job again" $RESCHEDULE ;;
    *) fail "no pilot is started" ;;
esac

# DIRAC kills a job that uses hardly any processor time, as a pilot does while it waits for tokens.
touch DISABLE_WATCHDOG_CPU_WALLCLOCK_CHECK

# "exec" makes Python the process that DIRAC signals: so a pilot that is to stop can put its token back.
exec "$python" local-example.py "$@"
