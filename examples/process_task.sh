#!/bin/bash
# Does the work of one token. Change it as you like.
#
#   process_task.sh INPUT TOKENID
#
# What it prints becomes the token's logs, and its exit code the token's exit code (0: done, anything else: error).

input=$1
tokenid=$2

# Results that are too large for the database go to a storage of yours: name it, and the command that copies a file there.
storage=${PICAS_STORAGE:-}     # e.g. davs://webdav.example.org:2880/my-project, or remote:folder for rclone
copy=${PICAS_COPY:-gfal-copy}  # gets a file and its URL; or "rclone copyto", or "curl -fsST" for WebDAV

# upload FILE: copies a result there, and notes its URL in the token's field "uploads".
upload() {
    local name url
    name=$(basename "$1")
    url=$storage/${tokenid}_$name  # no folder, which not every storage makes by itself
    $copy "$1" "$url" && printf '%s\t%s\n' "$name" "$url" >> "$PICAS_UPLOADS"
}

echo "Working on $tokenid on $(hostname)"

# The token's input is a command here.
bash -c "$input"
code=$?

# Here, whatever it has put into a folder that is this token's own.
if [ -n "$storage" ] && [ $code = 0 ]; then
    for file in "${PICAS_RESULTS:?}"/*; do
        [ ! -f "$file" ] || upload "$file" || code=$?
    done
fi
exit $code
