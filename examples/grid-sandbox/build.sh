#!/bin/bash
# Makes picas.tar beside this script: picas and everything that it imports, in pure Python, for Python 3.9 and later.
#
#   build.sh                            downloads the packages with pip
#   build.sh --save-packages FOLDER     also keeps the packages in a folder
#   build.sh --find-links FOLDER        takes the packages from such a folder, and needs no network
#
# Set PYTHON to use another Python than python3. It needs pip.
set -euo pipefail

python=${PYTHON:-python3}
folder=$(cd "$(dirname "$0")" && pwd)
if [ -e "$folder/../../picas/sandbox.py" ]; then
    # -I: modules beside the script must not hide Python's own.
    exec "$python" -I "$folder/../../picas/sandbox.py" --output "$folder/picas.tar" "$@"
fi
exec "$python" -m picas.sandbox --output "$folder/picas.tar" "$@"  # from an installed picas
