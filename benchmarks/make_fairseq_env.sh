#!/usr/bin/env bash
# Build an environment with a real fairseq 0.12.2 to compare with. kdmt itself never needs it.
#
#     make fairseq-env          (benchmarks/make_fairseq_env.sh [FOLDER], .fairseq-env by default)
#
# fairseq 0.12.2 has wheels for Python 3.8 at the newest: one is looked for as $PYTHON38, as `python3.8` and among
# pyenv's versions. Takes about a minute and 1.8 GB. Does nothing if the environment is there and whole.
set -euo pipefail
cd "$(dirname "$0")/.."

folder=${1:-.fairseq-env}
# newer pips refuse the metadata of a dependency, omegaconf < 2.1
pip='pip<24.1'
packages=('numpy<1.24' torch==1.12.1 torchaudio==0.12.1 fairseq==0.12.2)
recipe="$pip ${packages[*]}"
complete=$folder/complete # holds the recipe; written last

is_python38() {
    "$1" -c 'import sys; sys.exit(sys.version_info[:2] != (3, 8))' > /dev/null 2>&1
}

# A file of that name is not enough: pyenv puts one on PATH that runs only where a 3.8 is selected.
find_python38() {
    if [[ -n ${PYTHON38:-} ]]; then
        candidates=("$PYTHON38")
    else
        candidates=(python3.8 "${PYENV_ROOT:-$HOME/.pyenv}"/versions/3.8.*/bin/python3.8)
    fi
    for candidate in "${candidates[@]}"; do
        if is_python38 "$candidate"; then
            echo "$candidate"
            return
        fi
    done
    echo "make fairseq-env: no Python 3.8 that runs (tried ${candidates[*]}); install one or set PYTHON38" >&2
    exit 2
}

if [[ -f $complete && $(< "$complete") == "$recipe" ]]; then
    echo "$folder: complete, nothing to do"
    exit 0
fi
python38=$(find_python38)
if [[ -e $folder && ! -f $folder/pyvenv.cfg ]]; then
    echo "make fairseq-env: $folder exists and is no Python environment: not touched" >&2
    exit 2
fi
rm -rf "$folder"
"$python38" -m venv "$folder"
"$folder/bin/python" -m pip install --quiet --disable-pip-version-check "$pip" wheel
"$folder/bin/python" -m pip install --quiet --disable-pip-version-check "${packages[@]}"
"$folder/bin/python" -c 'import fairseq; print("fairseq", fairseq.__version__)'
echo "$recipe" > "$complete"
echo "$folder: complete"
