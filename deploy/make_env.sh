#!/usr/bin/env bash
# Make a virtual environment with a program that runs exported models, with pinned packages. kdmt itself never needs it.
#
#     make deploy-envs                   all of them       (deploy/make_env.sh [NAME...], into .deploy-envs/NAME)
#     make deploy-envs NAME=marian       only this one
#
# deploy/NAME.txt has the packages and the version of Python: marian (pymarian 1.12.42), bergamot (bergamot 0.4.5, the
# engine of Firefox), argos (argostranslate 1.11.0; 1.5 GB, since it needs PyTorch). Python is looked for as python3.N
# and among pyenv's versions. deploy/transformers-js.json has the packages of Transformers.js, which npm installs; without
# npm it is not one of all. Does nothing for an environment that is complete.
set -euo pipefail
cd "$(dirname "$0")/.."

known=$(cd deploy && ls ./*.txt | sed 's|^\./||; s|\.txt$||' | paste -sd' ')
if command -v npm > /dev/null; then
    known+=" transformers-js"
fi

runs_version() {
    "$1" -c "import sys; sys.exit(sys.version_info[:2] != (3, $2))" > /dev/null 2>&1
}

# A file of that name is not enough: pyenv puts one on PATH that runs only where this version is selected.
find_python() {
    for candidate in "python3.$1" "${PYENV_ROOT:-$HOME/.pyenv}"/versions/3."$1".*/bin/python; do
        if runs_version "$candidate" "$1"; then
            echo "$candidate"
            return
        fi
    done
    echo "make deploy-envs: no Python 3.$1 that runs (tried python3.$1 and pyenv's versions)" >&2
    exit 2
}

make_env() {
    local packages=deploy/$1.txt folder=.deploy-envs/$1
    if [[ $1 == transformers-js ]]; then
        packages=deploy/$1.json
    fi
    local complete=$folder/complete # holds the list of packages; written last
    if [[ ! -f $packages || " $known " != *" $1 "* ]]; then
        echo "make deploy-envs: NAME is one of: $known" >&2
        exit 2
    fi
    if [[ -f $complete ]] && cmp -s "$packages" "$complete"; then
        echo "$folder: complete, nothing to do"
        return
    fi
    if [[ -e $folder && ! -f $folder/pyvenv.cfg && ! -f $folder/package.json ]]; then
        echo "make deploy-envs: $folder exists and is no environment: not touched" >&2
        exit 2
    fi
    if [[ $1 == transformers-js ]]; then
        rm -rf "$folder"
        mkdir -p "$folder"
        cp "$packages" "$folder/package.json"
        # the script of onnxruntime-node downloads libraries for GPUs
        npm install --prefix "$folder" --ignore-scripts --no-audit --no-fund --loglevel error
        cp "$packages" "$complete"
        echo "$folder: complete"
        return
    fi
    local python
    python=$(find_python "$(sed -n 's/^# Python 3\.//p' "$packages")")
    rm -rf "$folder"
    "$python" -m venv "$folder"
    "$folder/bin/python" -m pip install --quiet --disable-pip-version-check --requirement "$packages"
    "$folder/bin/python" -m pip check --disable-pip-version-check
    cp "$packages" "$complete"
    echo "$folder: complete"
}

for name in ${@:-$known}; do
    make_env "$name"
done
