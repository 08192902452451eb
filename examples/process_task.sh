#!/bin/bash
# Does the work of one token. Change its last lines to do your own work.
#
#   process_task.sh INPUT TOKENID
#
# Its output becomes the token's logs, and its exit code the token's exit code (0: done, anything else: error).

input=$1
tokenid=$2

# Results that are too large for the database go to your own storage: set its URL, and the command that copies a file there.
storage=${PICAS_STORAGE:-}     # e.g. davs://webdav.example.org:2880/my-project, or remote:folder for rclone
copy=${PICAS_COPY:-gfal-copy}  # called with a file and a URL; or "rclone copyto", or "curl -fsST" for WebDAV

if [ -n "$storage" ] && [ "$3" != work ]; then
    # This script calls itself for the work: then results can be uploaded however that ends.
    "$BASH" "$0" "$input" "$tokenid" work
    code=$?

    # one_name TEXT: prints the text as a part of one file's name, with = and two digits for each other character.
    one_name() {
        local LC_ALL=C i character code
        for ((i = 0; i < ${#1}; i++)); do
            character=${1:i:1}
            case $character in
                [A-Za-z0-9._-]) printf %s "$character" ;;
                *) printf -v code %d "'$character"; printf =%02X $((code & 255)) ;;
            esac
        done
    }

    # upload FILE: copies a result to the storage, and notes its URL in the token's field "uploads".
    upload() {
        local name url
        name=$(basename "$1")
        url=$storage/$(one_name "${tokenid}_$name")  # no folder: not every storage creates missing ones
        $copy "$1" "$url" && printf '%s\t%s\n' "$name" "$url" >> "$PICAS_UPLOADS"
    }

    # Upload all files that the work has put into this token's results folder.
    if [ $code = 0 ]; then
        for file in "${PICAS_RESULTS:?}"/*; do
            [ ! -f "$file" ] || upload "$file" || code=$?
        done
    fi
    exit $code
fi

echo "Working on $tokenid"
set --  # the command below finds no arguments

# In this example, the token's input is a command.
eval "$input"
