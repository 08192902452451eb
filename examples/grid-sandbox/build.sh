#!/bin/bash
# Makes picas.tar beside this script: picas and all that it imports, in pure Python, for any Python from 3.9 on.
set -euo pipefail
cd "$(dirname "$0")"

python=${PYTHON:-python3}
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT

# "pip download" respects which versions still run on Python 3.9; "pip install --target" does not.
"$python" -m pip download --quiet --disable-pip-version-check --dest "$folder/wheels" \
    --only-binary=:all: --platform any --implementation py --abi none --python-version 3.9 CouchDB requests
for wheel in "$folder"/wheels/*.whl; do
    "$python" -m zipfile -e "$wheel" "$folder"
done
cp -r ../../picas "$folder/"
rm -rf "$folder/wheels" "$folder/picas/embedded" "$folder"/*.dist-info "$folder"/*.data
find "$folder" -name __pycache__ -prune -exec rm -rf {} +

tar -C "$folder" -cf picas.tar .
echo "Made $PWD/picas.tar ($(du -k picas.tar | cut -f1) KiB)"
