#!/bin/bash
# Does a change make a network slower?  Measure it before and after, and fail if it does.
#
#   gate_pull_request.sh BASE_COMMAND HEAD_COMMAND NETWORK [WORDS OF kernelprof run]...
#
# Take several --processes: what they differ in tells chance from change.
# The two commands put the one version of the engine and the other in place ("pip install ...").
# Exit status: 0 same or faster, 1 slower, 2 an error, 3 nothing comparable was measured.
set -euo pipefail

base=$1 head=$2
shift 2

eval "$base"
kernelprof run "$@" -o base.kprof
eval "$head"
kernelprof run "$@" -o head.kprof

# On GitHub a line for each case that became slower is shown with the change.
format=text
if [ "${GITHUB_ACTIONS:-}" = true ]; then format=github; fi
kernelprof compare base.kprof head.kprof --format "$format"
