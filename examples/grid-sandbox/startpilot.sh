#!/bin/bash
# Starts a pilot on a worker node of the Grid, in the job's own folder: startpilot.sh [options of local-example.py]

# Some wrappers unpack the archive before they start us.
if [ ! -d picas ]; then
    tar -xf picas.tar || exit 1
fi
export PYTHONPATH=$PWD${PYTHONPATH:+:$PYTHONPATH}

# "exec" makes Python the process that is signalled: without it a pilot that is stopped can't put its token back.
exec python3 local-example.py "$@"
