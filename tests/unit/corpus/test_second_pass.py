from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from kdmt.config import Clean, Mixing
from kdmt.corpus.fingerprints import Finders, compute_fingerprints
from kdmt.corpus.first_pass import PassedCorpus, TrainingCorpus
from kdmt.corpus.second_pass import (
    Losses,
    OutputCorpus,
    choose_output,
    choose_sizes,
    find_losses,
    texts_at,
    write_output,
)

Pairs = list[tuple[str, str]]


def pass_corpus(folder: Path, name: str, pairs: Pairs, clean: Clean, **options: object) -> PassedCorpus:
    """Return a corpus as the first pass leaves it."""
    paths = [folder / f"{name}.{what}" for what in ("source", "target", "characters")]
    for side, path in enumerate(paths[:2]):
        path.write_bytes("".join(f"{pair[side]}\n" for pair in pairs).encode())
    np.array([[len(line) for line in pair] for pair in pairs], dtype=np.uint32).tofile(paths[2])
    corpus = TrainingCorpus(name, [], **options)  # type: ignore[arg-type]
    num_pairs = len(pairs)
    return PassedCorpus(corpus, clean, paths[0], paths[1], num_pairs, num_pairs, Counter(), paths[2], {}, Counter(), {})


def test_a_rule_looks_at_the_pairs_that_earlier_rules_keep(tmp_path: Path) -> None:
    clean = Clean(duplicates="target", max_ratio=2.0, near_duplicates=0.9)
    long = "a line that is rather long, so that it has many n-grams"
    corpora = {
        "a": [("s" * 60, "t"), ("x", "t"), ("y", "t"), (long, long)],
        "b": [(long.upper(), f"{long}!"), (long, "something else")],
    }
    finders = Finders(tmp_path, clean)
    passed = []
    for name, pairs in corpora.items():
        finders.add(compute_fingerprints(*map(list, zip(*pairs, strict=True)), clean), second=False)  # type: ignore[arg-type]
        passed.append(pass_corpus(tmp_path, name, pairs, clean))
    found = find_losses(passed, finders, clean, typical=1.0, workdir=tmp_path)
    masks = [{rule: mask_N.tolist() for rule, mask_N in losses.masks.items()} for losses in found]
    assert masks[0] == {
        "max_ratio": [True, False, False, False],
        "duplicate_target": [False, False, True, False],
        "near_duplicate": [False] * 4,
    }
    assert masks[1] == {
        "max_ratio": [False, True],
        "duplicate_target": [False, False],
        "near_duplicate": [True, False],
    }
    assert found[0].dropped_N.tolist() == [True, False, True, False]


def test_without_rules_nothing_is_dropped(tmp_path: Path) -> None:
    passed = [pass_corpus(tmp_path, "a", [("a", "b"), ("a", "b")], Clean())]
    (losses,) = find_losses(passed, Finders(tmp_path, None), None, typical=1.0, workdir=tmp_path)
    assert losses.masks == {}
    assert losses.dropped_N.tolist() == []


def numbered(count: int) -> Pairs:
    return [(f"s{number}", f"t{number}") for number in range(count)]


@pytest.mark.parametrize("chunk_pairs", [2, 100])
def test_output_has_the_chosen_copies_with_their_tags(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chunk_pairs: int
) -> None:
    monkeypatch.setattr("kdmt.corpus.second_pass.CHUNK_PAIRS", chunk_pairs)
    one = pass_corpus(tmp_path, "a", numbered(5), Clean(), tag="<a>")
    other = pass_corpus(tmp_path, "b", numbered(2), Clean())
    first, rest = np.array([0, 1, 0, 0, 1], dtype=bool), np.array([1, 1, 1, 0, 1], dtype=bool)
    output = [OutputCorpus(one, (first, first, rest), 7), OutputCorpus(other, (np.zeros(0, dtype=bool),), 2)]
    paths = [tmp_path / name for name in ("source", "target", "tags")]
    write_output(output, *paths)
    lines = [path.read_text().splitlines() for path in paths]
    assert lines[0] == ["s0", "s2", "s3", "s0", "s2", "s3", "s3", "s0", "s1"]
    assert lines[1] == [line.replace("s", "t") for line in lines[0]]
    assert lines[2] == ["<a>"] * 7 + [""] * 2


def test_sizes_of_shares_weights_and_mixtures(tmp_path: Path) -> None:
    passed = [
        pass_corpus(tmp_path, "a", numbered(10), Clean(), share=0.5, weight=3),
        pass_corpus(tmp_path, "b", numbered(10), Clean(), max_pairs=2),
        pass_corpus(tmp_path, "c", numbered(2), Clean(), share=0.1),
        pass_corpus(tmp_path, "d", [], Clean(), share=0.1),
    ]
    dropped_N = np.array([1, 1, 0, 0, 0, 0, 0, 0, 0, 0], dtype=bool)
    losses = [Losses({"a": dropped_N}), Losses({}), Losses({}), Losses({})]
    sizes = choose_sizes(passed, losses, None)
    assert [(size.kept, size.used, size.output) for size in sizes] == [(8, 4, 12), (10, 2, 2), (2, 1, 1), (0, 0, 0)]
    mixed = choose_sizes(passed, losses, Mixing(temperature=1.0, total_pairs=70))
    assert [size.output for size in mixed] == [40, 20, 10, 0]


def test_chosen_pairs_are_among_those_that_the_rules_keep(tmp_path: Path) -> None:
    passed = [pass_corpus(tmp_path, "a", numbered(100), Clean(), share=0.5)]
    losses = [Losses({"a": np.arange(100) % 2 == 0})]
    sizes = choose_sizes(passed, losses, Mixing(temperature=1.0, total_pairs=60))
    (output,) = choose_output(passed, losses, sizes, seed=1)
    kept = [np.flatnonzero(~mask_N) for mask_N in output.masks]
    assert [len(each) for each in kept] == [25, 25, 10]
    assert all((each % 2 == 1).all() for each in kept)
    assert set(kept[2]) < set(kept[0]) == set(kept[1])
    (other,) = choose_output(passed, losses, sizes, seed=2)
    assert (other.masks[0] != output.masks[0]).any()


def test_texts_at_the_indices_of_pairs(tmp_path: Path) -> None:
    one = pass_corpus(tmp_path, "a", numbered(5), Clean())
    assert texts_at(one, [1, 4]) == [("s1", "t1"), ("s4", "t4")]
