#!/bin/sh
# Build the wheel, install it in a virtual environment of its own, and see that it is whole: every file of the tree
# is in it and every module can be imported; and what finds its files or itself by name works from there.
set -eu
bin=$(cd "$1" && pwd)
root=$(pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
# of a copy: what an earlier build left in the tree must not get in, nor what is written meanwhile
mkdir "$work/tree" "$work/run"
tar -C "$root" --exclude='./.[!.]*' --exclude=./build --exclude='*.egg-info' --exclude=__pycache__ -cf - . | tar -C "$work/tree" -xf -
"$bin/python" -m build --wheel --no-isolation --outdir "$work/dist" "$work/tree" >"$work/build.log" 2>&1 || { cat "$work/build.log"; exit 1; }
"$bin/python" -m venv "$work/venv"
if [ -x "$bin/uv" ]; then
  "$bin/uv" pip sync -q --python "$work/venv/bin/python" --require-hashes "$root/requirements.lock"
  "$bin/uv" pip install -q --python "$work/venv/bin/python" --no-deps "$work"/dist/*.whl
else
  "$work/venv/bin/python" -m pip install -q --require-hashes -r "$root/requirements.lock"
  "$work/venv/bin/python" -m pip install -q --no-deps "$work"/dist/*.whl
fi
cp -r "$work/tree/tests" "$work/tree/pyproject.toml" "$work/tree/README.md" "$work/run/"
mv "$work/run/tests/wheel_contents.py" "$work/run/"
cd "$work/run"
"$work/venv/bin/python" wheel_contents.py "$work/tree"
"$work/venv/bin/montango" version
# not those that only compute: the wheel has the same code, and none of it is compiled there yet
"$work/venv/bin/python" -m pytest -q -m "not tango and not system and not slow" -p no:cacheprovider -n 2 --dist loadfile \
  --ignore-glob="*/test_bench_*" --ignore-glob="*/test_*stitch*" --ignore-glob="*/test_operations_*" \
  --ignore-glob="*/test_index_*" --ignore-glob="*/test_catalog_killed*" \
  tests/montango tests/tiled_server tests/plans/test_compliance.py tests/sim/test_sim_config.py
