"""Flags of fairseq-generate for `kdmt generate`, with the same names, defaults and parsing rules.

The flags are parsed by argparse, as in fairseq: a flag may be abbreviated, and the value of `--remove-bpe` is optional.
A fairseq flag that changes the output and has no counterpart in kdmt is refused by name. A flag that only changes
logging or the way of computing is accepted and has no effect.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NoReturn

from kdmt.corpus.subwords import JOINERS, join_subwords
from kdmt.errors import UserError
from kdmt.families import EDITING
from kdmt.languages import missing_extra

Scoring = Literal["bleu", "sacrebleu", "chrf"]
SCORINGS = ("bleu", "sacrebleu", "chrf")
_JOINED = {"fastbpe": "subword_nmt"}  # both use the same subword markers
SACREBLEU_TOKENIZERS = ("13a", "intl", "none", "zh", "ja-mecab", "ko-mecab", "char")

# flags that do not change the output
_SWITCHES_WITHOUT_EFFECT = (
    *("no_progress_bar", "no_beamable_mm", "no_early_stop", "memory_efficient_fp16", "no_seed_provided"),
)
_VALUES_WITHOUT_EFFECT = (
    *("log_format", "log_interval", "log_file", "num_workers", "dataset_impl", "data_buffer_size"),
    *("left_pad_source", "left_pad_target", "bpe_codes", "sentencepiece_model"),
    *("ddp_backend", "distributed_world_size", "criterion"),
)
# flags that change the output: name -> value without an effect (None: every value is refused), alternative in kdmt
_REFUSED: dict[str, tuple[str | None, str]] = {
    "unkpen": ("0", ""),
    "min_len": ("1", ""),
    "temperature": ("1", "temperatures are those of `distill.sample`"),
    "prefix_size": ("0", ""),
    "no_repeat_ngram_size": ("0", ""),
    "replace_unk": (None, ""),
    "constraints": (None, ""),
    "lm_path": (None, "language models go with CTC students: `score.nat.ctc_lm`"),
    "lm_weight": ("0", "language models go with CTC students: `score.nat.ctc_lm`"),
    "sampling_topk": ("-1", "the teacher's samples are `data: sampled`"),
    "sampling_topp": ("-1", "the teacher's samples are `data: sampled`"),
    "diverse_beam_groups": ("-1", ""),
    "diverse_beam_strength": ("0.5", ""),
    "diversity_rate": ("-1", ""),
    "print_alignment": (None, ""),
    "decoding_format": (None, ""),
    "model_overrides": ("{}", "a checkpoint is read as what it says it is"),
    "eos_token": (None, ""),
    "retain_dropout_modules": (None, ""),
    "user_dir": (None, ""),
}
_REFUSED_SWITCHES = (
    *("sampling", "match_source_len", "print_step", "retain_iter_history", "retain_dropout", "truncate_source"),
    *("score_reference", "load_alignments", "prepend_bos", "bf16"),
    *("sacrebleu_char_level",),
)


@dataclass(frozen=True)
class GenerateFlags:
    """Parsed flags of `kdmt generate`. Names and meanings are those of fairseq-generate."""

    data: Path
    paths: tuple[Path, ...]  # checkpoints
    gen_subset: str
    source_lang: str | None
    target_lang: str | None
    beam: int
    nbest: int
    lenpen: float
    max_len_a: float
    max_len_b: int
    remove_bpe: str | None
    detokenize: tuple[str, ...]  # steps that `D-` lines undo: a joiner of `join_subwords`, then "moses"
    batch_size: int | None
    max_tokens: int | None
    required_batch_size_multiple: int
    max_source_positions: int | None
    max_target_positions: int | None
    num_shards: int
    shard_id: int
    skip_invalid: bool
    seed: int
    results_path: Path | None
    scoring: Scoring
    sacrebleu_tokenizer: str
    sacrebleu_lowercase: bool
    quiet: bool
    cpu: bool
    fp16: bool
    threads: int
    max_iter: int
    length_beam: int
    eos_penalty: float
    all_passes: bool
    reranks: bool  # the last checkpoint selects among the candidate lengths


def parse_generate(arguments: Sequence[str]) -> GenerateFlags:
    """Parse a command line.

    Raises:
        UserError: if a flag is unknown or has no counterpart, or values are invalid or contradict each other.
    """
    parser = _parser()
    given, unknown = parser.parse_known_args(arguments)
    if unknown:
        raise UserError(f"{unknown[0]}: no flag of `kdmt generate`; it has those of --help")
    for name, (neutral, instead) in _REFUSED.items():
        value = getattr(given, name)
        if value is not None and not _same(value, neutral):
            raise _no_counterpart(f"--{name.replace('_', '-')} {value}", instead)
    for name in _REFUSED_SWITCHES:
        if getattr(given, name):
            instead = "`kdmt rescore` scores given pairs" if name == "score_reference" else ""
            raise _no_counterpart(f"--{name.replace('_', '-')}", instead)
    return _flags(given)


def generate_help() -> str:
    """Return the help text of `kdmt generate`."""
    return _parser().format_help().strip()


def _flags(given: argparse.Namespace) -> GenerateFlags:
    _check_values(given)
    join_subwords("", given.remove_bpe)  # raises an error if the value is unknown
    if extra := missing_extra(given.sacrebleu_tokenizer):
        raise UserError(
            f"--sacrebleu-tokenizer {given.sacrebleu_tokenizer}: needs packages that are not installed: "
            f"pip install 'kdmt[{extra}]'"
        )
    moses = ("moses",) if given.tokenizer == "moses" else ()
    limited = given.max_tokens is not None or given.batch_size is not None
    return GenerateFlags(
        data=Path(given.data),
        paths=tuple(Path(path) for path in given.path.split(":")),
        gen_subset=given.gen_subset,
        source_lang=given.source_lang,
        target_lang=given.target_lang,
        beam=given.beam,
        nbest=min(given.nbest, given.beam),
        lenpen=0.0 if given.unnormalized else given.lenpen,  # the score is divided by length ** 0 = 1
        max_len_a=given.max_len_a,
        max_len_b=given.max_len_b,
        remove_bpe=given.remove_bpe,
        detokenize=(*(() if given.bpe is None else (_JOINED.get(given.bpe, given.bpe),)), *moses),
        batch_size=given.batch_size,
        max_tokens=given.max_tokens if limited else 12_000,
        required_batch_size_multiple=given.required_batch_size_multiple,
        max_source_positions=given.max_source_positions,
        max_target_positions=given.max_target_positions,
        num_shards=given.num_shards,
        shard_id=given.shard_id,
        skip_invalid=given.skip_invalid_size_inputs_valid_test,
        seed=given.seed,
        results_path=None if given.results_path is None else Path(given.results_path),
        scoring="sacrebleu" if given.sacrebleu else given.scoring,
        sacrebleu_tokenizer=given.sacrebleu_tokenizer,
        sacrebleu_lowercase=given.sacrebleu_lowercase,
        quiet=given.quiet,
        cpu=given.cpu,
        fp16=given.fp16,
        threads=given.threads,
        max_iter=given.iter_decode_max_iter,
        length_beam=given.iter_decode_with_beam,
        eos_penalty=given.iter_decode_eos_penalty,
        all_passes=given.iter_decode_force_max_iter,
        reranks=given.iter_decode_with_external_reranker,
    )


def _check_values(given: argparse.Namespace) -> None:
    least = {
        "beam": 1,
        "nbest": 1,
        "max_len_a": 0,
        "max_len_b": 0,
        "max_source_positions": 1,
        "max_target_positions": 1,
        "batch_size": 1,
        "max_tokens": 1,
        "required_batch_size_multiple": 1,
        "num_shards": 1,
        "shard_id": 0,
        "threads": 0,
        "iter_decode_max_iter": 0,
        "iter_decode_with_beam": 1,
        "iter_decode_eos_penalty": 0,
    }
    for name, limit in least.items():
        value = getattr(given, name)
        if value is not None and value < limit:
            raise UserError(f"--{name.replace('_', '-')} {value}: should be at least {limit}")
    if given.shard_id >= given.num_shards:
        raise UserError(f"--shard-id {given.shard_id}: should be less than --num-shards, which is {given.num_shards}")
    if given.nbest > given.beam and given.beam > 1:
        raise UserError(f"--nbest {given.nbest} is more than --beam {given.beam}")


def _no_counterpart(flag: str, instead: str) -> UserError:
    return UserError(f"{flag}: `kdmt generate` has no counterpart of this flag{'; ' if instead else ''}{instead}")


def _same(value: str, neutral: str | None) -> bool:
    """Return whether two values are equal, compared as numbers if both are numbers."""
    try:
        return neutral is not None and float(value) == float(neutral)
    except ValueError:
        return value == neutral


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message}; see `{self.prog} --help`")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="kdmt generate",
        usage="kdmt generate DATA_BIN --path CHECKPOINT[:CHECKPOINT...] [flags]",
        description="Translate a split of a data-bin and write the lines that fairseq-generate writes.",
        epilog="docs/reference/fairseq-flags.md lists the flags of fairseq-generate that have no counterpart.",
    )
    for add_flags in (
        _add_data,
        _add_search,
        _add_text,
        _add_batches,
        _add_output,
        _add_device,
        _add_iterations,
        _add_unused,
    ):
        add_flags(parser.add_argument)
    return parser


def _add_data(add: Callable[..., object]) -> None:
    """Add the flags of the data and the models."""
    add("data", metavar="DATA_BIN", help="Data-bin of fairseq or kdmt.")
    add(
        "--path",
        required=True,
        help="Checkpoint folders, runs or .pt files; several, separated by ':', as an ensemble.",
    )
    add("--gen-subset", default="test", metavar="SPLIT", help="Split: train, valid, test, test1, ... (default: test).")
    add("-s", "--source-lang", metavar="LANG", help="Source language (default: as in the data).")
    add("-t", "--target-lang", metavar="LANG", help="Target language (default: as in the data).")
    add(
        "--task",
        choices=("translation", "translation_lev"),
        default="translation",
        help="Task of fairseq; without effect, since the checkpoint defines it (default: translation).",
    )


def _add_search(add: Callable[..., object]) -> None:
    """Add the flags of the search."""
    add("--beam", type=int, default=5, metavar="N", help="Beam size (default: 5).")
    add("--nbest", type=int, default=1, metavar="N", help="Number of hypotheses per sentence (default: 1).")
    add("--lenpen", type=float, default=1.0, metavar="X", help="Length penalty exponent (default: 1).")
    add("--unnormalized", action="store_true", help="Same as --lenpen 0.")
    add(
        "--max-len-a",
        type=float,
        default=0.0,
        metavar="A",
        help="Factor of the maximum target length, A * source length with </s> + B (default: 0).",
    )
    add("--max-len-b", type=int, default=200, metavar="B", help="Constant of the maximum target length (default: 200).")


def _add_text(add: Callable[..., object]) -> None:
    """Add the flags of text processing."""
    add(
        "--remove-bpe",
        "--post-process",
        nargs="?",
        const="subword_nmt",
        metavar="KIND",
        help=f"Subword marks to join tokens by: {', '.join(JOINERS)} (default: none; without a value: subword_nmt).",
    )
    add(
        "--bpe",
        choices=("sentencepiece", "subword_nmt", "fastbpe"),
        help="Subwords to undo in the lines S-, T- and D- (default: none).",
    )
    add(
        "--tokenizer",
        choices=("moses", "space"),
        help="Tokenisation to undo in the lines S-, T- and D- (default: none).",
    )


def _add_batches(add: Callable[..., object]) -> None:
    """Add the flags of batches and shards."""
    add(
        "--batch-size",
        "--max-sentences",
        type=int,
        metavar="N",
        help="Maximum number of sentences in a batch (default: no limit).",
    )
    add(
        "--max-tokens",
        type=int,
        metavar="N",
        help="Maximum number of tokens in a batch, with padding (default: 12000, or no limit with --batch-size).",
    )
    add(
        "--required-batch-size-multiple",
        type=int,
        default=8,
        metavar="N",
        help="Number that the sizes of full batches are multiples of (default: 8).",
    )
    for side in ("source", "target"):
        add(
            f"--max-{side}-positions",
            type=int,
            metavar="N",
            help=f"Maximum length of a {side} sentence (default: the maximum of the model).",
        )
    add("--num-shards", type=int, default=1, metavar="N", help="Number of shards (default: 1).")
    add(
        "--shard-id",
        type=int,
        default=0,
        metavar="I",
        help="Index of the shard to translate, from 0: every N-th batch from batch I on (default: 0).",
    )
    add(
        "--skip-invalid-size-inputs-valid-test",
        action="store_true",
        help="Whether to leave out sentences that are too long for the model (default: no).",
    )
    add(
        "--seed", type=int, default=1, metavar="N", help="Seed for the order of sentences of equal length (default: 1)."
    )


def _add_output(add: Callable[..., object]) -> None:
    """Add the flags of the output and its score."""
    add(
        "--results-path",
        metavar="FOLDER",
        help="Folder for the output, generate-<split>.txt (default: none, standard output is used).",
    )
    add(
        "--scoring",
        choices=SCORINGS,
        default="bleu",
        help="Metric; bleu is fairseq's own, on tokens separated by spaces (default: bleu).",
    )
    add("--sacrebleu", action="store_true", help="Same as --scoring sacrebleu.")
    add(
        "--sacrebleu-tokenizer",
        choices=SACREBLEU_TOKENIZERS,
        default="13a",
        metavar="NAME",
        help=f"Tokenizer of sacreBLEU: {', '.join(SACREBLEU_TOKENIZERS)} (default: 13a).",
    )
    add("--sacrebleu-lowercase", action="store_true", help="Whether sacreBLEU ignores case (default: no).")
    add("--quiet", action="store_true", help="Whether to print only the last line (default: no).")


def _add_device(add: Callable[..., object]) -> None:
    """Add the flags of the computation."""
    add(
        "--cpu",
        action="store_true",
        help="Whether to use the CPU (default: no, the first GPU is used if there is one).",
    )
    add("--fp16", action="store_true", help="Whether to compute in half precision (default: no).")
    add(
        "--threads",
        type=int,
        default=0,
        metavar="N",
        help="Number of CPU threads, not a flag of fairseq (default: 0, one per core).",
    )


def _add_iterations(add: Callable[..., object]) -> None:
    """Add the flags of iterative decoding."""
    add(
        "--iter-decode-max-iter",
        type=int,
        default=10,
        metavar="N",
        help="Maximum number of iterations after the first pass of a non-autoregressive model (default: 10).",
    )
    add("--iter-decode-with-beam", type=int, default=1, metavar="N", help="Number of candidate lengths (default: 1).")
    add(
        "--iter-decode-eos-penalty",
        type=float,
        default=0.0,
        metavar="X",
        help=f"Penalty on the decision that no token is missing, for {' and '.join(EDITING)} (default: 0).",
    )
    add(
        "--iter-decode-force-max-iter",
        action="store_true",
        help="Whether to do all iterations, also if one changes nothing (default: no).",
    )
    add(
        "--iter-decode-with-external-reranker",
        action="store_true",
        help="Whether the last checkpoint selects among the candidate lengths (default: no).",
    )


def _add_unused(add: Callable[..., object]) -> None:
    """Add the flags without effect and those that are refused, which `--help` does not list."""
    for name in (*_VALUES_WITHOUT_EFFECT, *_REFUSED):
        optional = {"nargs": "?", "const": ""} if name in ("constraints", "print_alignment") else {}
        add(f"--{name.replace('_', '-')}", help=argparse.SUPPRESS, **optional)
    for name in (*_SWITCHES_WITHOUT_EFFECT, *_REFUSED_SWITCHES):
        add(f"--{name.replace('_', '-')}", action="store_true", help=argparse.SUPPRESS)
