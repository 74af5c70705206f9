"""Tests of settings of prepare: cleaning, tokenizer, vocabulary and names of test sets."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import yaml

from kdmt.config import Pipeline, Text, flatten_settings

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
        (
            "prepare.decontaminate={ngram: 5, overlap: 0.5}",
            "prepare.decontaminate: 'overlap' has no effect with 'ngram: 5'",
        ),
        ("prepare.decontaminate={overlap: 0.0}", "prepare.decontaminate.overlap: should be greater than 0"),
        ("prepare.tokenizer.type=subword-nmt", "prepare.tokenizer: subword-nmt learns BPE only: set 'model: bpe'"),
        ("prepare.tokenizer.target_path=x", "prepare.tokenizer: 'target_path' is given without 'source_path'"),
        ("prepare.tokenizer.remove_bpe=letter", "prepare.tokenizer: 'remove_bpe' needs 'type: words'"),
        ("prepare.tokenizer={type: words, source_path: x}", "prepare.tokenizer: 'type: words' has no model"),
        ("prepare.tokenizer={source_path: x, target_path: y}", "prepare.tokenizer: a joint tokenizer has one model"),
        ("prepare.tokenizer={source_path: x, joint: false}", "prepare.tokenizer: a given separate tokenizer needs"),
        (
            "prepare.tokenizer={type: words, byte_fallback: true}",
            "prepare.tokenizer: 'byte_fallback' has no effect with",
        ),
        (
            "prepare.tokenizer={type: subword-nmt, model: bpe, split_digits: true}",
            "prepare.tokenizer: 'split_digits' has no effect with 'type: subword-nmt'",
        ),
        (
            "prepare.tokenizer={type: words, user_defined_symbols: [a]}",
            "prepare.tokenizer: 'user_defined_symbols' has no",
        ),
        ("prepare.tokenizer={type: words, hard_vocab_limit: false}", "prepare.tokenizer: 'hard_vocab_limit' has no"),
        (
            "prepare.tokenizer={type: huggingface, source_path: x, normalization_rule: nfkc}",
            "prepare.tokenizer: 'normalization_rule' has no effect with 'type: huggingface'",
        ),
        (
            "prepare.tokenizer={source_path: x, split_digits: true}",
            "prepare.tokenizer: 'split_digits' has no effect on a",
        ),
        (
            "prepare.tokenizer={source_path: x, seed: 1}",
            "prepare.tokenizer: 'seed' has no effect: no tokenizer is learnt",
        ),
        ("prepare.tokenizer={type: words, seed: 1}", "prepare.tokenizer: 'seed' has no effect: no tokenizer is learnt"),
        ("prepare.tokenizer={train_sentences: 0, seed: 1}", "prepare.tokenizer: 'seed' has no effect with 'train_sent"),
        (
            "prepare.tokenizer={type: words, vocab_size: auto}",
            "prepare.tokenizer: 'vocab_size: auto' has no effect: no",
        ),
        ("prepare.tokenizer.vocab_size=7", "prepare.tokenizer.vocab_size: should be greater than or equal to 8"),
        ("prepare.tokenizer.vocab_size=many", "prepare.tokenizer.vocab_size: should be 'auto'"),
        ("prepare.tokenizer={type: huggingface}", "prepare.tokenizer: 'type: huggingface' needs the path of a"),
        (
            "prepare.tokenizer={type: huggingface, source_path: x, vocab_size: 99}",
            "prepare.tokenizer: 'vocab_size' has no effect with 'type: huggingface': nothing is learnt",
        ),
        (
            "prepare.tokenizer.user_defined_symbols=['a b']",
            "prepare.tokenizer: 'user_defined_symbols': 'a b' is empty or",
        ),
        ("prepare.tokenizer.user_defined_symbols=['']", "prepare.tokenizer: 'user_defined_symbols': '' is empty or"),
        (
            "prepare.tokenizer.user_defined_symbols=['</s>']",
            "prepare.tokenizer: 'user_defined_symbols': '</s>' is a symbol",
        ),
        (
            "prepare.tokenizer.user_defined_symbols=['<0x0A>']",
            "prepare.tokenizer: 'user_defined_symbols': '<0x0A>' is a",
        ),
        (
            "prepare.tokenizer.user_defined_symbols=[a, a]",
            "prepare.tokenizer: 'user_defined_symbols': a symbol is listed",
        ),
        (
            "prepare.tokenizer={byte_fallback: true, vocab_size: 260}",
            "prepare.tokenizer: 'vocab_size' should be more than 260",
        ),
        (
            "prepare={tokenizer: {source_path: x, byte_fallback: true}, vocabulary: {source_path: d}, "
            "train: [{tsv: {path: x}}], valid: {tsv: {path: x}}}",
            "prepare: 'tokenizer.byte_fallback' has no effect on a given dictionary",
        ),
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
        (
            "prepare={data_bin: {path: x}, tokenizer: {type: words}, clean: {rules: default}}",
            "prepare: 'clean.rules' has no effect with 'data_bin'",
        ),
        (
            "prepare={data_bin: {path: x}, tokenizer: {type: words}, decontaminate: {ngram: 13}}",
            "prepare: 'decontaminate' has no effect with 'data_bin'",
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


def test_settings_of_the_tokenizer_are_part_of_the_plan_and_old_records_have_their_defaults(load: Load) -> None:
    """Check that a manifest of an earlier version, which has none of these settings, stays up to date."""
    new = ("byte_fallback", "split_digits", "user_defined_symbols", "hard_vocab_limit", "normalization_rule", "seed")
    found = flatten_settings(load("prepare.tokenizer.vocab_size=auto").prepare, "result")
    assert found["tokenizer.vocab_size"].value == "auto"
    for name in new:
        assert found[f"tokenizer.{name}"].value == found[f"tokenizer.{name}"].default


def test_case_folding_by_the_tokenizer_makes_scores_ignore_case(load: Load) -> None:
    assert load("prepare.tokenizer.normalization_rule=nmt_nfkc_cf").scores_lowercased
    assert not load("prepare.tokenizer.normalization_rule=nmt_nfkc").scores_lowercased


def test_a_tokenizer_of_hugging_face_cannot_be_sampled(problem: Callable[..., str]) -> None:
    message = problem(
        "prepare.tokenizer={type: huggingface, source_path: x}", "teacher.train.subword_regularization={alpha: 0.1}"
    )
    assert message.startswith(
        "'teacher.train.subword_regularization': a tokenizer of 'prepare.tokenizer.type: huggingf"
    )
