#!/usr/bin/env bash
# The project's tests: makes a virtual environment of its own, then linter, type checks, pytest.
# Arguments go to pytest. PYTHON=python3.13 chooses another interpreter than python3.
set -euo pipefail
cd "$(dirname "$0")"

venv=$(bash venv.sh)
"$venv/bin/ruff" check ..
"$venv/bin/ruff" format --check ..
"$venv/bin/mypy" --config-file mypy.ini ../src .
exec "$venv/bin/python" -m pytest "$@"
