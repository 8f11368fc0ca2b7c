#!/usr/bin/env bash
# One notification, one tunnel, real sessions through it: the component as GDK builds it, installed and run by
# the recipe's own scripts, between a stand-in nucleus and a stand-in tunneling service on this machine.
#
#     bash tests/demo.sh           shows each step, transfers, cleans up; exit code 0 if all of it worked
#     bash tests/demo.sh --keep    leaves the tunnel open until Ctrl-C and prints how to use it
set -euo pipefail
cd "$(dirname "$0")"
venv=$(bash venv.sh)
PYTHONPATH=. exec "$venv/bin/python" -u demo.py "$@"
