#!/bin/bash
# The program of command.md, which stands for your own: it "fits" a star, and prints the result.
#
#   fit.sh NAME ALPHA MEMORY
#
# A star whose number ends with 50 needs 16 GB; one whose number ends with 99 needs the file dust.txt.
name=$1
alpha=$2
memory=$3

case $name in
    *50) [ "$memory" = 16G ] || { echo "fit: $name does not fit into $memory" >&2; exit 1; } ;;
    *99) cat dust.txt || exit 2 ;;
esac
awk -v name="$name" -v alpha="$alpha" 'BEGIN { printf "%s %.3f\n", name, alpha ^ 2 }'
