#!/bin/sh
# Build the wheel, install it in a virtual environment of its own, and run the quick tests against it there.
set -eu
bin=$(cd "$1" && pwd)
root=$(pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"$bin/python" -m build --wheel --no-isolation --outdir "$work/dist" "$root" >"$work/build.log" 2>&1 || { cat "$work/build.log"; exit 1; }
"$bin/python" -m venv "$work/venv"
if [ -x "$bin/uv" ]; then
  "$bin/uv" pip sync -q --python "$work/venv/bin/python" --require-hashes "$root/requirements.lock"
  "$bin/uv" pip install -q --python "$work/venv/bin/python" --no-deps "$work"/dist/*.whl
else
  "$work/venv/bin/python" -m pip install -q --require-hashes -r "$root/requirements.lock"
  "$work/venv/bin/python" -m pip install -q --no-deps "$work"/dist/*.whl
fi
mkdir "$work/run"
cp -r "$root/tests" "$root/pyproject.toml" "$root/README.md" "$work/run/"
cd "$work/run"
"$work/venv/bin/python" -c "import devices, sys; assert 'site-packages' in devices.__file__, devices.__file__"
"$work/venv/bin/python" -m pytest -q -m "not tango and not system and not slow" -p no:cacheprovider
