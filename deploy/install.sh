#!/bin/sh
# Install xdlm-serve from a source tree into a new environment, with the locked packages:
#   install.sh SOURCE PREFIX
# The Dockerfile runs this; so do the tests, since it needs no container.
set -eu
python3 -m venv "$2"
"$2/bin/pip" install --quiet --no-cache-dir --disable-pip-version-check \
    -c "$1/constraints/runtime.txt" "$1[otel]"
"$2/bin/xdlm" info stories
