#!/bin/bash
# Does the work of one token, whose input is a command: process_task.sh INPUT TOKENID

echo "Working on $2: $1"
eval "$1"
