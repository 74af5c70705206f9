"""Tests of fairseq-generate's flags: they are read as in fairseq, and flags without counterpart are refused by name."""

from __future__ import annotations

from pathlib import Path

import pytest

from kdmt.errors import UserError
from kdmt.interop.fairseq.flags import GenerateFlags, parse_generate


def parse(*flags: str) -> GenerateFlags:
    return parse_generate(["data", "--path", "a:b", *flags])


def test_defaults_are_fairseqs() -> None:
    """The defaults are those of fairseq 0.12.2's options.py and fairseq_cli/generate.py."""
    flags = parse()
    assert (flags.data, flags.paths, flags.gen_subset) == (Path("data"), (Path("a"), Path("b")), "test")
    assert (flags.beam, flags.nbest, flags.lenpen, flags.max_len_a, flags.max_len_b) == (5, 1, 1.0, 0.0, 200)
    assert (flags.max_tokens, flags.batch_size, flags.required_batch_size_multiple) == (12_000, None, 8)
    assert (flags.num_shards, flags.shard_id, flags.seed) == (1, 0, 1)
    assert (flags.scoring, flags.remove_bpe, flags.detokenize) == ("bleu", None, ())
    assert (flags.max_iter, flags.length_beam, flags.all_passes, flags.reranks) == (10, 1, False, False)


def test_max_tokens_has_no_default_with_batch_size() -> None:
    assert parse("--batch-size", "16").max_tokens is None
    assert parse("--max-sentences", "16").batch_size == 16


def test_flags_are_parsed_as_by_argparse() -> None:
    assert parse("--gen-sub", "valid").gen_subset == "valid"  # an abbreviated flag
    assert parse("--remove-bpe").remove_bpe == "subword_nmt"
    assert parse("--post-process", "sentencepiece").remove_bpe == "sentencepiece"
    assert parse("--unnormalized", "--lenpen", "2").lenpen == 0.0
    assert parse("--sacrebleu").scoring == "sacrebleu"
    assert parse("--bpe", "fastbpe", "--tokenizer", "moses").detokenize == ("subword_nmt", "moses")


@pytest.mark.parametrize("flags", [("--no-progress-bar",), ("--log-format", "json"), ("--left-pad-source", "True"),
                                   ("--unkpen", "0.0"), ("--min-len", "1"), ("--temperature", "1.0")])  # fmt: skip
def test_flags_without_an_effect_are_accepted(flags: tuple[str, ...]) -> None:
    assert parse(*flags) == parse()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--unkpen", "0.5"), r"^--unkpen 0\.5: `kdmt generate` has no counterpart of this flag$"),
        (("--temperature", "2"), "^--temperature 2: .*; temperatures are those of `distill.sample`$"),
        (("--print-alignment",), "^--print-alignment : "),
        (("--score-reference",), "^--score-reference: .*`kdmt rescore` scores given pairs"),
        (("--sampling",), "^--sampling: "),
        (("--unknown", "1"), "^--unknown: no flag of `kdmt generate`"),
        (("--beam", "0"), "^--beam 0: should be at least 1$"),
        (("--nbest", "6"), "^--nbest 6 is more than --beam 5$"),
        (("--shard-id", "2", "--num-shards", "2"), "^--shard-id 2: should be less than --num-shards, which is 2$"),
        (("--scoring", "meteor"), "invalid choice: 'meteor'"),
    ],
)
def test_unsupported_or_invalid_flags_are_refused(flags: tuple[str, ...], message: str) -> None:
    with pytest.raises(UserError, match=message):
        parse(*flags)


def test_nbest_of_a_greedy_search_is_one() -> None:
    assert parse("--beam", "1", "--nbest", "4").nbest == 1
