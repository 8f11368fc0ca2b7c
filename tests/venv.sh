#!/usr/bin/env bash
# Makes the tests' virtual environment and prints its folder. It is made again only when what it is made from
# changed. PYTHON=python3.13 chooses another interpreter than python3.
set -euo pipefail
cd "$(dirname "$0")"

python=${PYTHON:-python3}
version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
venv=$PWD/.venv/$version
wanted=$(cat ../requirements.txt requirements.txt | cksum)
if [ "$(cat "$venv/made-from" 2>/dev/null)" != "$wanted" ]; then
    rm -rf "$venv"
    "$python" -m venv "$venv" >&2
    "$venv/bin/pip" install -qq --disable-pip-version-check -r ../requirements.txt -r requirements.txt >&2
    echo "$wanted" > "$venv/made-from"
fi
echo "$venv"
