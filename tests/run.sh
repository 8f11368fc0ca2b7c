#!/usr/bin/env bash
# The project's tests: makes a virtual environment of its own, then linter, type checks, pytest.
# Arguments go to pytest. PYTHON=python3.13 chooses another interpreter than python3.
set -euo pipefail
cd "$(dirname "$0")"

python=${PYTHON:-python3}
version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
venv=.venv/$version
# The environment is made again only when what it is made from changed.
wanted=$(cat ../requirements.txt requirements.txt | cksum)
if [ "$(cat "$venv/made-from" 2>/dev/null || true)" != "$wanted" ]; then
    rm -rf "$venv"
    "$python" -m venv "$venv"
    "$venv/bin/pip" install --quiet --disable-pip-version-check -r ../requirements.txt -r requirements.txt
    echo "$wanted" > "$venv/made-from"
fi

"$venv/bin/ruff" check ..
"$venv/bin/ruff" format --check ..
"$venv/bin/mypy" --config-file mypy.ini ../src .
exec "$venv/bin/python" -m pytest "$@"
