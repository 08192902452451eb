#!/bin/bash
# Makes picas.tar beside this script: picas and all that it imports, in pure Python, for any Python from 3.9 on.
#
#   build.sh                            gets the packages with pip
#   build.sh --save-packages FOLDER     keeps them in a folder too,
#   build.sh --find-links FOLDER        from which this makes it without a network
#
# PYTHON names another Python than python3; it needs pip.
set -euo pipefail

python=${PYTHON:-python3}
folder=$(cd "$(dirname "$0")" && pwd)
if [ -e "$folder/../../picas/sandbox.py" ]; then
    # -I: the modules beside it are not to be taken for Python's own.
    exec "$python" -I "$folder/../../picas/sandbox.py" --output "$folder/picas.tar" "$@"
fi
exec "$python" -m picas.sandbox --output "$folder/picas.tar" "$@"  # of an installed picas
