#!/bin/bash
# Makes picas.tar beside this script: picas and all that it imports, in pure Python, for any Python from 3.9 on.
set -euo pipefail
cd "$(dirname "$0")"

python=${PYTHON:-python3}
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT

"$python" -m pip install --quiet --disable-pip-version-check --root-user-action=ignore --target "$folder" \
    --only-binary=:all: --platform any --implementation py --abi none --python-version 3.9 CouchDB requests
cp -r ../../picas "$folder/"
rm -rf "$folder/picas/embedded" "$folder"/*.dist-info "$folder/bin"
find "$folder" -name __pycache__ -prune -exec rm -rf {} +

tar -C "$folder" -cf picas.tar .
echo "Made $PWD/picas.tar ($(du -k picas.tar | cut -f1) KiB)"
