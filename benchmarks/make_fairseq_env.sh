#!/usr/bin/env bash
# Build an environment with a real fairseq to compare with. kdmt itself never needs it.
#
#     make fairseq-env          (benchmarks/make_fairseq_env.sh [FOLDER [VERSION]], .fairseq-env and 0.12.2 by default)
#     make fairseq-old-env      0.10.2, whose checkpoints have the old form
#
# fairseq has wheels for Python 3.8 at the newest: one is looked for as $PYTHON38, as `python3.8` and among pyenv's
# versions. Takes about a minute and 1.8 GB. Does nothing if the environment is there and whole.
#
# The wheels lack the edit distances (`fairseq.libnat`) that Levenshtein and Insertion Transformers train with. They are
# compiled from the source distribution of 0.9.0, the last that can be had and built; this wants a C++ compiler and
# ninja, and an environment without them is complete for everything else.
set -euo pipefail
cd "$(dirname "$0")/.."

folder=${1:-.fairseq-env}
version=${2:-0.12.2}
# newer pips refuse the metadata of a dependency, omegaconf < 2.1
pip='pip<24.1'
packages=('numpy<1.24' torch==1.12.1 torchaudio==0.12.1 "fairseq==$version")
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

add_libnat() {
    if compgen -G "$folder/lib/python3.8/site-packages/fairseq/libnat*.so" > /dev/null; then
        return
    fi
    if ! command -v g++ > /dev/null || ! command -v ninja > /dev/null; then
        echo "$folder: no g++ or no ninja: without libnat, which edit-based models train with" >&2
        return
    fi
    scratch=$(mktemp -d)
    trap 'rm -rf "$scratch"' EXIT
    "$folder/bin/python" -m pip download --quiet --disable-pip-version-check --no-deps --no-binary fairseq \
        --dest "$scratch" fairseq==0.9.0
    tar -xzf "$scratch/fairseq-0.9.0.tar.gz" -C "$scratch"
    "$folder/bin/python" - "$scratch" "$folder/lib/python3.8/site-packages/fairseq" << 'END'
import shutil
import sys

from torch.utils.cpp_extension import load

scratch, package = sys.argv[1:]
source = scratch + "/fairseq-0.9.0/fairseq/clib/libnat/edit_dist.cpp"
built = load(name="libnat", sources=[source], build_directory=scratch)
shutil.copy(built.__file__, package)
END
    echo "$folder: libnat built"
}

if [[ -f $complete && $(< "$complete") == "$recipe" ]]; then
    add_libnat
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
add_libnat
echo "$recipe" > "$complete"
echo "$folder: complete"
