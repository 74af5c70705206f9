"""Tests of settings of prepare: cleaning, tokenizer, vocabulary and names of test sets."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import yaml

from kdmt.config import Pipeline, Text

Load = Callable[..., Pipeline]


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("prepare.clean={min_words: 5, max_words: 2}", "prepare.clean: 'min_words' is larger than 'max_words'"),
        ("prepare.clean=none", "prepare: 'clean: none' drops no line: set 'decontaminate: false' too"),
        ("prepare.mixing={temperature: 5}", "prepare: 'mixing' has no effect with fewer than two corpora"),
        ("prepare.mixing={temperature: 0.5}", "prepare.mixing.temperature: should be greater than or equal to 1"),
        (
            "prepare.sampling_seed=2",
            "prepare: 'sampling_seed' has no effect without 'share', 'max_pairs' and 'mixing'",
        ),
        (
            "prepare.clean={drop_duplicates: false, duplicates: source}",
            "prepare.clean: 'duplicates' has no effect with 'drop_duplicates: false'",
        ),
        (
            "prepare.clean={drop_duplicates: false, near_duplicates: 0.8}",
            "prepare.clean: 'near_duplicates' has no effect with 'drop_duplicates: false'",
        ),
        (
            "prepare.clean={max_duplicates: 2, near_duplicates: 0.8}",
            "prepare.clean: 'near_duplicates' drops what 'max_duplicates' keeps: equal pairs are near-duplicates too",
        ),
        (
            "prepare.clean.near_duplicates=0.3",
            "prepare.clean: 'near_duplicates' should be 0, or at least 0.5: other pairs are not near-duplicates",
        ),
        ("prepare.clean.duplicates=both", "prepare.clean.duplicates: should be 'pair', 'source', 'target' or 'either'"),
        ("prepare.decontaminate={ngram: 3}", "prepare.decontaminate.ngram: should be greater than or equal to 5"),
        ("prepare.decontaminate={overlap: 0.0}", "prepare.decontaminate.overlap: should be greater than 0"),
        ("prepare.tokenizer.type=subword-nmt", "prepare.tokenizer: subword-nmt learns BPE only: set 'model: bpe'"),
        ("prepare.tokenizer.target_path=x", "prepare.tokenizer: 'target_path' is given without 'source_path'"),
        ("prepare.tokenizer.remove_bpe=letter", "prepare.tokenizer: 'remove_bpe' needs 'type: words'"),
        ("prepare.tokenizer={type: words, source_path: x}", "prepare.tokenizer: 'type: words' has no model"),
        ("prepare.tokenizer={source_path: x, target_path: y}", "prepare.tokenizer: a joint tokenizer has one model"),
        ("prepare.tokenizer={source_path: x, joint: false}", "prepare.tokenizer: a given separate tokenizer needs"),
        ("prepare.tokenizer.joint=false", "prepare: a joined vocabulary needs a joint tokenizer"),
        ("prepare.vocabulary.source_path=d", "prepare: a given 'vocabulary.source_path' needs its tokenizer"),
        ("prepare.vocabulary.target_path=d", "prepare.vocabulary: a joined vocabulary has one dictionary"),
        ("prepare.vocabulary={joined: false, source_path: d}", "prepare.vocabulary: give both 'source_path' and"),
        ("prepare.vocabulary={source_path: d, nwords: 9}", "prepare.vocabulary: a given dictionary is taken as it"),
        ("prepare.vocabulary={nwords_target: 9}", "prepare.vocabulary: a joined vocabulary has one 'threshold'"),
        ("prepare.train=[]", "prepare: 'train' is missing (or give a 'data_bin' of fairseq's)"),
        ("prepare.valid=null", "prepare: 'valid' is missing (or give a 'data_bin' of fairseq's)"),
        ("prepare.data_bin={path: x}", "prepare: 'data_bin' replaces the corpora: leave out 'train'"),
        ("prepare={data_bin: {path: x}}", "prepare: 'data_bin' is tokenised: give its model as"),
        (
            "prepare={data_bin: {path: x}, tokenizer: {type: words}, vocabulary: {source_path: d}}",
            "prepare: 'data_bin' has its own dictionaries",
        ),
    ],
)
def test_contradicting_settings_are_named(problem: Callable[..., str], override: str, expected: str) -> None:
    assert problem(override).startswith(expected)


@pytest.mark.parametrize("name", ["train2", "valid", "dict.x", "raw", "a.part", "Train1.old"])
def test_reserved_names_of_test_sets_are_refused(problem: Callable[..., str], name: str) -> None:
    message = problem("prepare.test={" + name + ": {tsv: {path: x}}}")
    assert message.startswith(f"prepare: test set {name!r}: the name is reserved for files of the pipeline")


@pytest.mark.parametrize("name", ["a b", "-a", "a/b", "x" * 101])
def test_names_of_test_sets_that_are_not_file_names_are_refused(problem: Callable[..., str], name: str) -> None:
    assert "a name begins with a letter, a digit or '_'" in problem(f"prepare.test={{{name}: {{tsv: {{path: x}}}}}}")


def test_names_of_test_sets_that_differ_only_in_case_are_refused(problem: Callable[..., str]) -> None:
    message = problem("prepare.test={a: {tsv: {path: x}}, A: {tsv: {path: x}}}")
    assert message.startswith("prepare: test sets 'a' and 'A': names that differ in case alone are one on some disks")


def test_a_data_bin_has_the_names_of_its_test_sets(load: Load) -> None:
    given = "prepare={data_bin: {path: x, test: [test, test1]}, tokenizer: {type: words}}"
    assert load(given).prepare.test_sets == ["test", "test1"]


@pytest.mark.parametrize(
    ("text", "changes_nothing"),
    [("{}", True), ("{already_applied: true}", True), ("{lowercase: true}", False), ("{normalize: true}", False)],
)
def test_whether_text_settings_change_text(text: str, changes_nothing: bool) -> None:
    assert Text(**yaml.safe_load(text)).changes_nothing is changes_nothing
