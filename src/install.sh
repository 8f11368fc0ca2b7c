#!/bin/sh
# What the recipe runs, in the component's work folder, to have the virtual environment venv/ there.
# This part finds a Python of 3.9 or newer; the rest, which can count on one, is install.py beside it.
# The output goes to the component log: one line of what is wrong, and nothing where there is nothing to do.
set -u

PATH=${PATH:-/usr/local/bin:/usr/bin:/bin}
export PATH
src=$(dirname "$0")

# The environment's own interpreter answers fastest, and that it starts at all is part of the answer.
if venv/bin/python3 -EsSB "$src/install.py" --check 2>/dev/null; then
    exit 0
fi

for python in python3 python3.13 python3.12 python3.11 python3.10 python3.9; do
    if "$python" -ES -c 'import sys; sys.exit(sys.version_info < (3, 9))' 2>/dev/null; then
        exec "$python" -EsB "$src/install.py"
    fi
done
echo "ERROR no Python 3.9 or newer on PATH ($PATH): install one, such as with apt-get install python3" >&2
exit 1
