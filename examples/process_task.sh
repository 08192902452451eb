#!/bin/bash
# Does the work of one token. Change it as you like.
#
#   process_task.sh INPUT TOKENID
#
# What it prints becomes the token's logs, and its exit code the token's exit code (0: done, anything else: error).

input=$1
tokenid=$2

echo "Working on $tokenid on $(hostname)"

# The token's input is a command here. "exec" passes its exit code on, and a signal to stop as well.
exec bash -c "$input"
