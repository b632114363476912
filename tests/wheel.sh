#!/usr/bin/env bash
# The wheel, built from the source archive, works in an environment of its own, away from this tree.
# The environment borrows torch and the rest from .venv (or from $VENV) and holds lvlm-fix alone.
set -euo pipefail
cd "$(dirname "$0")/.."
unset PYTHONPATH # or what lies there would count as installed
shared=$("${VENV:-.venv}/bin/python" -c "import sysconfig; print(sysconfig.get_path('purelib'))")
home=$PWD/.matrix/wheel
rm -rf "$home" dist build
"${VENV:-.venv}/bin/python" -m venv "$home/tools"
"$home/tools/bin/python" -m pip install -q build twine
"$home/tools/bin/python" -m build > "$home/log" 2>&1 || { tail -20 "$home/log" >&2; exit 1; }
"$home/tools/bin/python" -m twine check --strict dist/*
wheel=$(echo dist/*.whl)
[ "$(stat -c %s "$wheel")" -lt 100000000 ] || { echo "$wheel has 100 MB or more" >&2; exit 1; }

"${VENV:-.venv}/bin/python" -m venv "$home/empty"
own=$("$home/empty/bin/python" -c "import sysconfig; print(sysconfig.get_path('purelib'))")
"$home/empty/bin/python" -m pip install -q --no-deps "$wheel"
echo "$shared" > "$own/shared.pth"
cp tests/wheel_check.py "$home"
cd "$home"
empty/bin/python wheel_check.py "$own"
echo "$wheel works without this tree"
