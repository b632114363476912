#!/usr/bin/env bash
# The contract on the oldest and the newest release of transformers that the package accepts.
# Each has an environment of its own under .matrix, which borrows torch and the rest from .venv.
# Releases can be named; the oldest of the default ones runs the contract on one family only.
set -euo pipefail
cd "$(dirname "$0")/.."
releases=("${@:-}")
few=""
[ -n "${releases[0]}" ] || { releases=(5.10.4 5.24.0); few=5.10.4; }
shared=$(.venv/bin/python -c "import sysconfig; print(sysconfig.get_path('purelib'))")
for release in "${releases[@]}"; do
    home=.matrix/$release
    if [ ! -e "$home/installed" ]; then
        rm -rf "$home"
        .venv/bin/python -m venv "$home"
        own=$("$home/bin/python" -c "import sysconfig; print(sysconfig.get_path('purelib'))")
        echo "$shared" > "$own/shared.pth"
        grep -v "^transformers" constraints.txt > "$home/constraints.txt"
        "$home/bin/python" -m pip install -q -c "$home/constraints.txt" "transformers==$release"
        touch "$home/installed"
    fi
    found=$("$home/bin/python" -c "import transformers; print(transformers.__version__)")
    [ "$found" = "$release" ] || { echo "asked for $release, found $found" >&2; exit 1; }
    echo "transformers $release"
    some=()
    some_of="llava or situations or texts or private or export or stock"
    [ "$release" != "$few" ] || some=(-k "$some_of")
    OMP_NUM_THREADS=1 PYTHONPATH=$PWD:$PWD/eval:$PWD/demo "$home/bin/python" -m pytest \
        -p no:cacheprovider -n 2 --dist loadgroup "${some[@]}" \
        tests/test_contract.py tests/test_situations.py tests/test_next_token.py \
        tests/test_literal.py tests/test_texts.py tests/test_private.py tests/test_export.py \
        tests/methods/test_opera.py
done
