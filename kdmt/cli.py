"""The command line, which parses arguments, calls the library packages and prints results.

kdmt new x.yaml --source en --target cs
kdmt find en cs
kdmt lock x.yaml [--update] [NAME]... [--bibtex]
kdmt run x.yaml [--to STAGE] [--student NAME] [--set a.b=c]
kdmt status x.yaml
kdmt prepare|teacher|distill|knowledge|student|score x.yaml [--set a.b=c]
kdmt import-fairseq DATA_BIN x.yaml
kdmt translate runs/x/teacher < input.txt > output.txt
kdmt serve runs/x/students/small/seed_1
kdmt generate DATA_BIN --path runs/x/teacher --beam 5 --remove-bpe
kdmt export --to ctranslate2 runs/x/students/small/seed_1 OUT
kdmt import-checkpoint checkpoint_best.pt OUT --data DATA_BIN
kdmt trim nllb-200-distilled-600M --text train.en --text train.de --languages en,de --to OUT
kdmt clean x.yaml [--yes]
"""

# no `from __future__ import annotations`: typer would compile each of these annotations at every start

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Annotated

import typer

from kdmt import __version__
from kdmt.choices import InputFormat, SelectionMethod, StageName, TemplateName
from kdmt.errors import Interrupted, UserError
from kdmt.interop.exporters import EXPORTERS, ExportOptions, Quantization
from kdmt.streams import flushed_output, output_text, protect_streams
from kdmt.terminal import printable, printable_stderr

if TYPE_CHECKING:
    from kdmt.stages.workspace import Workspace

app = typer.Typer(
    help="Sequence-level knowledge distillation for neural machine translation, end to end.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

PipelineFile = Annotated[Path, typer.Argument(metavar="PIPELINE.yaml", help="Pipeline file.")]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="A.B=C", help="Setting to override, repeatable (default: none)."),
]
Runs = Annotated[Path, typer.Option(envvar="KDMT_RUNS", help="Folder for the outputs of all pipelines.")]
Mirrors = Annotated[
    list[str] | None,
    typer.Option(
        "--mirror",
        metavar="FOLDER|URL",
        help="Folder or base of URLs in which files of corpora are looked up first, repeatable "
        "(default: those of KDMT_MIRROR, separated as in PATH, or none).",
    ),
]
StudentName = Annotated[str | None, typer.Option(help="Name of the one student to train (default: all).")]
Rebuild = Annotated[
    bool,
    typer.Option(
        "--rebuild", help="Whether to run the stages before this one too, if they are not up to date (default: no)."
    ),
]
Checkpoint = Annotated[Path, typer.Argument(help="Checkpoint folder or run (its chosen checkpoint).")]
Device = Annotated[str, typer.Option(help="Device: auto, cpu, cuda or cuda:N; auto is the first GPU, or the CPU.")]
SourceLang = Annotated[
    str | None, typer.Option("--source-lang", "-s", help="Source language (default: as in the data).")
]
TargetLang = Annotated[
    str | None, typer.Option("--target-lang", "-t", help="Target language (default: as in the data).")
]
BpeCodes = Annotated[Path | None, typer.Option(help="Merge operations of subword-nmt or fastBPE (default: none).")]
SentencePiece = Annotated[Path | None, typer.Option(help="SentencePiece model (default: none).")]
Moses = Annotated[bool, typer.Option("--moses", help="Whether the text was tokenised by Moses (default: no).")]
Lowercase = Annotated[bool, typer.Option("--lowercase", help="Whether the text was lowercased (default: no).")]
CorpusTag = Annotated[
    str | None, typer.Option(help="Tag of a training corpus, put before each source sentence, as <bt> (default: none).")
]
_MOST_THREADS = 1024
Beam = Annotated[int | None, typer.Option(min=1, help="Beam size (default: as given to 'kdmt export', else 5).")]
Lenpen = Annotated[
    float | None, typer.Option(help="Length penalty exponent (default: as given to 'kdmt export', else 1).")
]
Iterations = Annotated[int, typer.Option(min=1, max=10_000, help="Maximum iterations of a non-autoregressive model.")]
LengthBeam = Annotated[
    int, typer.Option(min=1, max=256, help="Number of lengths that a non-autoregressive model tries.")
]
Threads = Annotated[int, typer.Option(min=0, max=_MOST_THREADS, help="Number of CPU threads; 0 for one per core.")]
ChosenSource = Annotated[
    str | None, typer.Option("--from", help="Source language, which chooses a direction of a model (default: any).")
]
ChosenTarget = Annotated[
    str | None, typer.Option("--to", help="Target language, which chooses a direction of a model (default: any).")
]
DecodedShard = Annotated[
    str | None,
    typer.Option(
        metavar="I/N",
        help="Shard to decode: every N-th block from block I on, I from 0 (default: all blocks, which are merged).",
    ),
]
Verify = Annotated[
    bool,
    typer.Option("--verify", help="Whether to check the training sets and decode some blocks again (default: no)."),
]
VerifyBlocks = Annotated[int, typer.Option(min=0, help="Number of blocks that --verify decodes again.")]
VerifySeed = Annotated[int | None, typer.Option(help="Seed for choosing the blocks (default: random).")]
RUNS = Path("runs")
_MAX_MESSAGE = 4000  # maximum number of characters of a message


def _print_version(value: bool) -> None:
    if value:
        print(f"kdmt {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    context: typer.Context,
    _version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Sequence-level knowledge distillation for neural machine translation, end to end."""
    from kdmt.log import messages_on_stderr

    context.with_resource(messages_on_stderr())


@app.command()
def find(
    source: Annotated[str, typer.Argument(help="Source language, such as en.")],
    target: Annotated[
        str | None,
        typer.Argument(
            help="Target language, such as de (default: none; text in the source language alone is listed)."
        ),
    ] = None,
    test: Annotated[
        bool, typer.Option("--test", help="Whether to list test and development sets only (default: no).")
    ] = False,
    min_pairs: Annotated[
        int, typer.Option(min=0, help="Smallest number of pairs; above 0, data sets of unknown size are left out.")
    ] = 0,
    max_pairs: Annotated[
        int | None, typer.Option(min=1, help="Largest number of pairs of training text (default: no limit).")
    ] = None,
    all_versions: Annotated[
        bool, typer.Option("--all-versions", help="Whether to list old versions of corpora as well (default: no).")
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Whether to print JSON instead of YAML (default: no).")
    ] = False,
) -> None:
    """List the published data sets of a language pair by name, with sizes, licences and known overlaps.

    The list comes with kdmt; no network is needed.
    """
    from kdmt.commands import find as command

    found = command.find(source, target, test=test, min_pairs=min_pairs, max_pairs=max_pairs, all_versions=all_versions)
    if as_json:
        print(command.find_json(found))
        return
    for line in command.find_lines(found):
        print(printable(line))


@app.command()
def new(
    pipeline: Annotated[Path, typer.Argument(metavar="PIPELINE.yaml", help="New pipeline file.")],
    source: Annotated[
        str | None, typer.Option(help="Source language, as en or zh-Hans (default: that of the template).")
    ] = None,
    target: Annotated[
        str | None, typer.Option(help="Target language, as cs or sr-Latn (default: that of the template).")
    ] = None,
    template: Annotated[
        TemplateName, typer.Option(help="Template to start from; opus names published corpora.")
    ] = "minimal",
    name: Annotated[str | None, typer.Option(help="Name of the pipeline (default: the file's name).")] = None,
) -> None:
    """Write a commented pipeline file from a template."""
    from kdmt.commands.new import new_pipeline

    for path in new_pipeline(pipeline, source=source, target=target, template=template, name=name):
        print(printable(str(path)))


@app.command()
def lock(
    pipeline: PipelineFile,
    names: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[NAME]...",
            help="Data sets, URLs or YAML paths, such as ParaCrawl/v9 or train.0, for --update (default: all).",
        ),
    ] = None,
    update: Annotated[
        bool, typer.Option("--update", help="Whether to lock again what is locked already (default: no).")
    ] = False,
    bibtex: Annotated[
        bool,
        typer.Option(
            "--bibtex", help="Whether to print the citations of the data sets instead of locking them (default: no)."
        ),
    ] = False,
    set_: Overrides = None,
    runs: Runs = RUNS,
    mirror: Mirrors = None,
) -> None:
    """Write the files behind names of data sets and URLs to PIPELINE.lock.yaml, with their SHA-256.

    What is locked is kept; what is new is downloaded and added.
    """
    from kdmt.commands.lock import lock_pipeline, print_citations

    def show(text: str) -> None:
        print("\n".join(map(printable, text.split("\n"))))

    if bibtex:
        if update or names:
            raise UserError("--bibtex prints what is locked: give neither --update nor names")
        print_citations(pipeline, set_ or (), show=show)
        return
    lock_pipeline(
        pipeline, set_ or (), runs=runs, mirrors=_mirrors(mirror), update=update, names=names or (), show=show
    )


@app.command()
def run(
    pipeline: PipelineFile,
    to: Annotated[StageName, typer.Option(help="Last stage to run.")] = "score",
    student: StudentName = None,
    set_: Overrides = None,
    runs: Runs = RUNS,
    mirror: Mirrors = None,
) -> None:
    """Run every stage that is not up to date, up to a stage."""
    from kdmt.commands.run import run_pipeline

    with _joined_workspace(pipeline, set_, runs, mirror) as workspace:
        run_pipeline(workspace, to=to, student=student)


@app.command()
def status(
    pipeline: PipelineFile,
    as_json: Annotated[
        bool, typer.Option("--json", help="Whether to print JSON instead of a table (default: no).")
    ] = False,
    set_: Overrides = None,
    runs: Runs = RUNS,
) -> None:
    """Show every stage, whether it is up to date and why not, and the size and age of its folder."""
    from kdmt.commands.status import pipeline_status, status_json, status_lines

    workspace = _workspace(pipeline, set_, runs)
    statuses = pipeline_status(workspace)
    if as_json:
        print(status_json(workspace, statuses))
        return
    for line in status_lines(statuses):
        print(printable(line))


@app.command()
def prepare(
    pipeline: PipelineFile,
    shard: Annotated[
        str | None,
        typer.Option(
            metavar="I/N",
            help="Shard to clean: every N-th chunk of the text from chunk I on, I from 0 (default: all chunks, and all "
            "other work).",
        ),
    ] = None,
    set_: Overrides = None,
    runs: Runs = RUNS,
    mirror: Mirrors = None,
    rebuild: Rebuild = False,
) -> None:
    """Clean, decontaminate, tokenise and binarise the corpora."""
    if shard is not None:
        from kdmt.stages.pipeline import run_prepare_shard

        run_prepare_shard(_workspace(pipeline, set_, runs, mirror), *_parse_shard(shard), rebuild=rebuild)
        return
    _run("prepare", pipeline, set_, runs, mirror, rebuild)


@app.command("import-fairseq")
def import_fairseq(
    data_bin: Annotated[Path, typer.Argument(metavar="DATA_BIN", help="Data-bin written by fairseq-preprocess.")],
    pipeline: Annotated[Path, typer.Argument(metavar="PIPELINE.yaml", help="New pipeline file.")],
    name: Annotated[str | None, typer.Option(help="Name of the pipeline (default: the file's name).")] = None,
    source_lang: SourceLang = None,
    target_lang: TargetLang = None,
    bpe_codes: BpeCodes = None,
    sentencepiece: SentencePiece = None,
    remove_bpe: Annotated[
        str | None,
        typer.Option(help="Subword marks to join tokens by for scores, such as subword_nmt (default: none)."),
    ] = None,
    moses: Moses = False,
    lowercase: Lowercase = False,
    runs: Runs = RUNS,
) -> None:
    """Write a pipeline that uses a fairseq data-bin with its dictionaries, and run its prepare stage."""
    from kdmt.commands.import_fairseq import new_pipeline

    with new_pipeline(
        data_bin,
        pipeline,
        name=name,
        source_lang=source_lang,
        target_lang=target_lang,
        bpe_codes=bpe_codes,
        sentencepiece=sentencepiece,
        remove_bpe=remove_bpe,
        moses=moses,
        lowercase=lowercase,
    ) as hints:
        for hint in hints:
            print(hint, file=sys.stderr)
        _run("prepare", pipeline, None, runs, None, rebuild=False)


@app.command("back-translate")
def back_translate(
    pipeline: PipelineFile,
    shard: DecodedShard = None,
    verify: Verify = False,
    verify_blocks: VerifyBlocks = 2,
    verify_seed: VerifySeed = None,
    set_: Overrides = None,
    runs: Runs = RUNS,
    mirror: Mirrors = None,
    rebuild: Rebuild = False,
) -> None:
    """Translate text in the target language with a model of the opposite direction."""
    if verify or shard is not None:
        workspace = _workspace(pipeline, set_, runs, mirror)
        verified = verify_blocks if verify else None
        _decode_parts(workspace, "back-translate", shard, verified, verify_seed, rebuild=rebuild)
        return
    _run("back-translate", pipeline, set_, runs, mirror, rebuild)


@app.command()
def teacher(
    pipeline: PipelineFile, set_: Overrides = None, runs: Runs = RUNS, mirror: Mirrors = None, rebuild: Rebuild = False
) -> None:
    """Train the teacher, or continue its training."""
    _run("teacher", pipeline, set_, runs, mirror, rebuild)


@app.command()
def distill(
    pipeline: PipelineFile,
    shard: DecodedShard = None,
    verify: Verify = False,
    verify_blocks: VerifyBlocks = 2,
    verify_seed: VerifySeed = None,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run",
            help="Whether to print the requests and tokens that a language model still needs, and send nothing "
            "(default: no).",
        ),
    ] = False,
    set_: Overrides = None,
    runs: Runs = RUNS,
    mirror: Mirrors = None,
    rebuild: Rebuild = False,
) -> None:
    """Translate the training set with the teacher."""
    if dry_run:
        from kdmt.stages.pipeline import run_estimate

        if verify or shard is not None or rebuild:
            raise UserError("--dry-run sends and changes nothing: give neither --verify, --shard nor --rebuild")
        run_estimate(_workspace(pipeline, set_, runs, mirror))
        return
    if verify or shard is not None:
        workspace = _workspace(pipeline, set_, runs, mirror)
        _decode_parts(workspace, "distill", shard, verify_blocks if verify else None, verify_seed, rebuild=rebuild)
        return
    _run("distill", pipeline, set_, runs, mirror, rebuild)


def _decode_parts(
    workspace: "Workspace",
    stage: StageName,
    shard: str | None,
    verified: int | None,
    seed: int | None,
    *,
    rebuild: bool,
) -> None:
    """Make a shard of a stage if one is given, and decode `verified` blocks again unless it is None."""
    from kdmt.stages.pipeline import run_shards, run_verification

    if shard is not None:
        run_shards(workspace, *_parse_shard(shard), rebuild=rebuild, stage=stage)
    if verified is not None:
        run_verification(workspace, blocks=verified, seed=seed, stage=stage)


def _parse_shard(text: str) -> tuple[int, int]:
    shard, slash, shards = text.partition("/")
    if not (slash and all(part.isascii() and part.isdigit() for part in (shard, shards))):
        raise UserError(f"--shard {text!r}: expected I/N, as 0/8")
    return int(shard), int(shards)


@app.command()
def knowledge(
    pipeline: PipelineFile, set_: Overrides = None, runs: Runs = RUNS, mirror: Mirrors = None, rebuild: Rebuild = False
) -> None:
    """Write the knowledge cache: the teacher's probabilities at every target token."""
    _run("knowledge", pipeline, set_, runs, mirror, rebuild)


@app.command()
def student(
    pipeline: PipelineFile,
    student: StudentName = None,
    set_: Overrides = None,
    runs: Runs = RUNS,
    mirror: Mirrors = None,
    rebuild: Rebuild = False,
) -> None:
    """Train the students, one model for each seed."""
    _run("student", pipeline, set_, runs, mirror, rebuild, student=student)


@app.command()
def score(
    pipeline: PipelineFile, set_: Overrides = None, runs: Runs = RUNS, mirror: Mirrors = None, rebuild: Rebuild = False
) -> None:
    """Translate the test sets with every system and report the metrics, speed and significance."""
    _run("score", pipeline, set_, runs, mirror, rebuild)


@app.command()
def report(
    pipeline: PipelineFile,
    out: Annotated[
        Path | None, typer.Option(help="Path of the page (default: report.html in the folder of the pipeline).")
    ] = None,
    set_: Overrides = None,
    runs: Runs = RUNS,
) -> None:
    """Draw the page report.html of the scores again, such as with charts after matplotlib was installed."""
    from kdmt.commands.report import report as draw

    print(printable(str(draw(_workspace(pipeline, set_, runs), out=out))))


@app.command()
def diagnose(pipeline: PipelineFile, set_: Overrides = None, runs: Runs = RUNS) -> None:
    """Print the diagnostics that 'kdmt score' has written: memorisation, hallucinations, omissions, rare words."""
    from kdmt.stages.score import show_diagnostics

    show_diagnostics(_workspace(pipeline, set_, runs))


@app.command()
def clean(
    pipeline: PipelineFile,
    names: Annotated[
        list[str] | None,
        typer.Argument(metavar="[NAME]...", help="Names from the list, such as teacher.previous (default: all)."),
    ] = None,
    yes: Annotated[
        bool, typer.Option("--yes", help="Whether to remove the listed folders and files (default: no).")
    ] = False,
    set_: Overrides = None,
    runs: Runs = RUNS,
) -> None:
    """List earlier states of stages and incomplete outputs with their sizes, or remove them."""
    from kdmt.commands.clean import clean as clean_up

    clean_up(_workspace(pipeline, set_, runs), names or (), removing=yes, show=print)


@app.command()
def translate(
    models: Annotated[
        list[Path],
        typer.Argument(
            metavar="MODEL...",
            help="Checkpoint folder, run (its chosen checkpoint), or folder written by 'kdmt export'; several with "
            "different languages, of which --from and --to choose one.",
        ),
    ],
    source_lang: Annotated[
        str | None,
        typer.Option("--from", help="Source language, which chooses a model or a direction of a model (default: any)."),
    ] = None,
    target_lang: Annotated[
        str | None,
        typer.Option("--to", help="Target language, which chooses a model or a direction of a model (default: any)."),
    ] = None,
    beam: Beam = None,
    lenpen: Lenpen = None,
    max_len_a: Annotated[float, typer.Option(help="Maximum target length per source token.")] = 1.2,
    max_len_b: Annotated[int, typer.Option(help="Constant added to the maximum target length, in tokens.")] = 10,
    iterations: Iterations = 10,
    length_beam: LengthBeam = 1,
    buffer_size: Annotated[int, typer.Option(min=1, help="Maximum number of lines translated together.")] = 1024,
    input_format: Annotated[
        InputFormat,
        typer.Option(
            help="Format of the input: txt with a sentence per line, html, or jsonl with objects in "
            "which 'text' is translated and 'translation' is added; 'source' and 'target' choose among several models."
        ),
    ] = "txt",
    document: Annotated[
        bool,
        typer.Option(
            "--document",
            help="Whether lines are split into sentences, with their whitespace kept (default: no; html always is).",
        ),
    ] = False,
    tag: CorpusTag = None,
    simultaneous: Annotated[
        bool,
        typer.Option(
            "--simultaneous",
            help="Whether words are read as they arrive and written as they are decided: checkpoints with a "
            "unidirectional encoder, or of streaming ctc students (default: no).",
        ),
    ] = False,
    wait_k: Annotated[
        int | None,
        typer.Option(
            "--wait-k",
            min=1,
            help="Number of source tokens read before the first target token, with --simultaneous.",
        ),
    ] = None,
    threads: Threads = 0,
    device: Device = "auto",
) -> None:
    """Translate raw text from standard input to standard output, line by line.

    A line that is not UTF-8 gets an empty translation and a message on standard error; the exit code is 2 at the end.
    """
    from kdmt.commands import translate as command
    from kdmt.commands.models import SearchOptions

    options = SearchOptions(
        beam=beam,
        lenpen=lenpen,
        max_len_a=max_len_a,
        max_len_b=max_len_b,
        iterations=iterations,
        length_beam=length_beam,
        threads=threads,
        device=device,
        tag=tag,
    )
    if wait_k is not None and not simultaneous:
        raise UserError("--wait-k has no effect without --simultaneous")
    if simultaneous:
        from kdmt.commands.simultaneous import translate_simultaneously

        if len(models) > 1 or source_lang or target_lang or document or input_format != "txt":
            raise UserError(
                "--simultaneous translates lines of text with one model: leave out --from, --to, --document, "
                "--input-format and further models"
            )
        translate_simultaneously(models[0], options, wait_k=wait_k)
        return
    command.translate(
        models,
        options,
        buffer_size=buffer_size,
        input_format=input_format,
        is_document=document,
        source_lang=source_lang,
        target_lang=target_lang,
    )


@app.command()
def serve(
    models: Annotated[
        list[Path],
        typer.Argument(
            metavar="MODEL...",
            help="Checkpoint folders, runs (their chosen checkpoints), or folders written by 'kdmt export', one for "
            "each language pair.",
        ),
    ],
    host: Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0 for all networks.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port; 0 for a free one.")] = 5000,
    api_keys: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="File with one API key per line (default: the keys in KDMT_API_KEYS, separated by commas, or none).",
        ),
    ] = None,
    beam: Beam = None,
    lenpen: Lenpen = None,
    max_characters: Annotated[int, typer.Option(min=1, help="Maximum number of characters of a request.")] = 10_000,
    max_texts: Annotated[int, typer.Option(min=1, help="Maximum number of texts of a request.")] = 1000,
    max_body: Annotated[int, typer.Option(min=1, help="Maximum size of a request in bytes.")] = 262_144,
    max_connections: Annotated[int, typer.Option(min=1, help="Maximum number of open connections.")] = 4096,
    queue_size: Annotated[int, typer.Option(min=1, help="Maximum number of sentences that wait for a model.")] = 4096,
    client_queue_size: Annotated[
        int, typer.Option(min=1, help="Maximum number of sentences of one client that wait.")
    ] = 1024,
    batch_size: Annotated[int, typer.Option(min=1, help="Maximum number of sentences translated together.")] = 64,
    batch_wait: Annotated[
        float, typer.Option(min=0, max=10, help="Time in seconds that a sentence waits for others.")
    ] = 0.005,
    read_timeout: Annotated[
        float,
        typer.Option(min=0.1, max=86_400, help="Time in seconds for a client to send a request, or read an answer."),
    ] = 10.0,
    timeout: Annotated[
        float, typer.Option(min=0.1, max=86_400, help="Maximum time in seconds of a translation.")
    ] = 60.0,
    trust_proxy: Annotated[
        bool,
        typer.Option(
            "--trust-proxy",
            help="Whether X-Forwarded-For of a proxy on this machine has the addresses of clients (default: no).",
        ),
    ] = False,
    iterations: Iterations = 10,
    length_beam: LengthBeam = 1,
    tag: CorpusTag = None,
    threads: Threads = 0,
    device: Device = "auto",
) -> None:
    """Translate by HTTP with the API of LibreTranslate, and a web form.

    POST /translate, GET /languages, /health and /metrics. The server ends on SIGTERM or SIGINT, after it has answered
    the requests that it accepted.
    """
    from kdmt.commands import serve as command
    from kdmt.commands.models import SearchOptions
    from kdmt.serve.limits import Limits

    command.serve(
        models,
        host=host,
        port=port,
        api_keys=api_keys,
        trust_proxy=trust_proxy,
        limits=Limits(
            body_bytes=max_body,
            characters=max_characters,
            texts=max_texts,
            queued_sentences=queue_size,
            client_sentences=client_queue_size,
            batch_sentences=batch_size,
            batch_seconds=batch_wait,
            connections=max_connections,
            read_seconds=read_timeout,
            write_seconds=read_timeout,
            request_seconds=timeout,
        ),
        search=SearchOptions(
            beam=beam,
            lenpen=lenpen,
            iterations=iterations,
            length_beam=length_beam,
            threads=threads,
            device=device,
            tag=tag,
        ),
    )


@app.command(
    add_help_option=False,
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True, "allow_interspersed_args": False},
)
def generate(context: typer.Context) -> None:
    """Translate a split of a data-bin with the flags and the output of fairseq-generate."""
    from kdmt.interop.fairseq.flags import parse_generate

    flags = parse_generate(context.args)  # before the modules for translation are loaded
    from kdmt.commands import generate as command

    command.generate(flags)


@app.command("fairseq-plugin")
def fairseq_plugin() -> None:
    """Print the --user-dir for fairseq-train with the criterions word_kd and seq_kd."""
    print(Path(__file__).parent / "interop" / "fairseq_plugin" / "kdmt_fairseq")


@app.command()
def rescore(
    checkpoint: Annotated[
        Path,
        typer.Argument(
            help="Checkpoint folder, run (its chosen checkpoint), or folder written by 'kdmt export --to ctranslate2'."
        ),
    ],
    source: Annotated[Path, typer.Argument(help="Raw text in the source language, one sentence per line.")],
    target: Annotated[Path, typer.Argument(help="Raw text in the target language, one translation per line.")],
    source_lang: ChosenSource = None,
    target_lang: ChosenTarget = None,
    compute_type: Annotated[
        Quantization, typer.Option(help="Number type of CTranslate2; those with float16 or bfloat16 need a GPU.")
    ] = "float32",
    workers: Annotated[int, typer.Option(min=0, help="Number of processes; 0 for one per core, or one per GPU.")] = 0,
    threads: Annotated[int, typer.Option(min=1, max=_MOST_THREADS, help="Number of CPU threads per process.")] = 1,
    device: Device = "auto",
) -> None:
    """Print the log-probability of each target given its source, and its number of tokens."""
    from kdmt.commands import rescore as command

    command.rescore(
        checkpoint,
        source,
        target,
        source_lang=source_lang,
        target_lang=target_lang,
        compute_type=compute_type,
        workers=workers,
        threads=threads,
        device=device,
    )


@app.command()
def contrast(
    model: Annotated[
        Path,
        typer.Argument(
            help="Checkpoint folder, run (its chosen checkpoint), or folder written by 'kdmt export --to ctranslate2'."
        ),
    ],
    pairs: Annotated[
        Path,
        typer.Argument(
            help="JSONL file with an object for each pair: 'source', 'right', 'wrong' (one target or several), and "
            "'context' with the previous sentences."
        ),
    ],
    source_lang: ChosenSource = None,
    target_lang: ChosenTarget = None,
    threads: Threads = 0,
    device: Device = "auto",
) -> None:
    """Print the percentage of contrastive pairs whose right target is more probable than the wrong ones."""
    from kdmt.api import load
    from kdmt.score.contrastive import read_pairs

    read = read_pairs(pairs)
    opened = load(model, device=device, threads=threads)
    chosen = opened if (source_lang, target_lang) == (None, None) else opened.for_languages(target_lang, source_lang)
    result = chosen.contrast(read)
    print(f"accuracy {result.accuracy:.2f}: {result.num_correct:,} of {len(read):,} pairs")


@app.command()
def import_checkpoint(
    checkpoints: Annotated[
        str, typer.Argument(metavar="A.pt[:B.pt]", help="Checkpoints of fairseq, separated by ':'.")
    ],
    out: Annotated[Path, typer.Argument(help="New checkpoint folder; OUT/0, OUT/1, ... for several checkpoints.")],
    data: Annotated[Path, typer.Option(help="Data-bin of the checkpoints, or a folder with its dict.<lang>.txt.")],
    source_lang: Annotated[str | None, typer.Option(help="Source language (default: as in the checkpoint).")] = None,
    target_lang: Annotated[str | None, typer.Option(help="Target language (default: as in the checkpoint).")] = None,
    bpe_codes: BpeCodes = None,
    sentencepiece: SentencePiece = None,
    normalize: Annotated[
        bool, typer.Option("--normalize", help="Whether the punctuation was normalised by Moses (default: no).")
    ] = False,
    moses: Moses = False,
    lowercase: Lowercase = False,
    all_directions: Annotated[
        bool,
        typer.Option(
            "--all-directions", help="Whether a multilingual checkpoint is imported with all directions (default: no)."
        ),
    ] = False,
) -> None:
    """Convert checkpoints of fairseq to checkpoint folders."""
    from kdmt.commands import import_checkpoint as command

    command.import_checkpoint(
        checkpoints,
        out,
        data=data,
        source_lang=source_lang,
        target_lang=target_lang,
        bpe_codes=bpe_codes,
        sentencepiece=sentencepiece,
        normalize=normalize,
        moses=moses,
        lowercase=lowercase,
        all_directions=all_directions,
    )


@app.command()
def import_marian(
    model: Annotated[Path, typer.Argument(metavar="MODEL.npz", help="Model of Marian, or of Bergamot (.bin).")],
    out: Annotated[Path, typer.Argument(help="New checkpoint folder.")],
    source_lang: Annotated[str | None, typer.Option(help="Source language (default: as exported by kdmt).")] = None,
    target_lang: Annotated[str | None, typer.Option(help="Target language (default: as exported by kdmt).")] = None,
    vocab: Annotated[
        list[Path] | None,
        typer.Option(
            help="Vocabulary, .spm or .yml; twice if source and target differ (default: those that the model's "
            "decoder.yml names)."
        ),
    ] = None,
    sentencepiece: Annotated[
        list[Path] | None,
        typer.Option(
            help="SentencePiece model before a .yml vocabulary; twice if source and target differ (default: source.spm "
            "and target.spm in the folder of the model)."
        ),
    ] = None,
    normalize: Annotated[
        bool, typer.Option("--normalize", help="Whether the punctuation was normalised by Moses (default: no).")
    ] = False,
    source_token: Annotated[
        str | None,
        typer.Option(help="Token before each source, such as '>>fra<<' for the target language (default: none)."),
    ] = None,
) -> None:
    """Convert a model of Marian, such as those of OPUS-MT and Firefox, to a checkpoint folder."""
    from kdmt.commands import import_marian as command

    command.import_marian(
        model,
        out,
        source_lang=source_lang,
        target_lang=target_lang,
        vocab=vocab or (),
        sentencepiece=sentencepiece or (),
        normalize=normalize,
        source_token=source_token,
    )


def _exporter(name: str) -> str:
    if name not in EXPORTERS:
        raise typer.BadParameter(f"{name!r} is not one of {', '.join(map(repr, EXPORTERS))}.")
    return name


@app.command()
def export(
    checkpoint: Checkpoint,
    out: Annotated[
        Path, typer.Argument(help="New folder; for fairseq, the new .pt file; for argos, the new .argosmodel file.")
    ],
    to: Annotated[
        str,
        typer.Option(
            parser=_exporter,
            metavar=f"[{'|'.join(EXPORTERS)}]",
            help="Toolkit: " + "; ".join(f"{name} for {each.models}" for name, each in EXPORTERS.items()) + ".",
        ),
    ],
    quantization: Annotated[
        Quantization | None,
        typer.Option(
            help="Number type of the weights, for ctranslate2, onnx, transformers-js and argos; those with float16 or "
            "bfloat16 are for GPUs (default: int8 for argos and bergamot, else float32)."
        ),
    ] = None,
    beam: Annotated[
        int,
        typer.Option(
            min=1, help="Default beam size of the exported model; argos, fairseq and transformers-js have their own."
        ),
    ] = 5,
    lenpen: Annotated[
        float,
        typer.Option(
            help="Default length penalty exponent of the exported model; argos, fairseq and transformers-js have "
            "their own."
        ),
    ] = 1.0,
    data: Annotated[
        Path | None,
        typer.Option(
            help="Data-bin for the lexical shortlist and the sample of marian and bergamot (default: that of the "
            "checkpoint's pipeline)."
        ),
    ] = None,
    licence: Annotated[
        str, typer.Option("--license", help="Licence in the model card, as an identifier of the Hugging Face hub.")
    ] = "unknown",
) -> None:
    """Export a trained model to another toolkit, with its tokenizer and text processing."""
    from kdmt.commands import export as command

    options = ExportOptions(
        quantization or EXPORTERS[to].quantizations[0], beam=beam, lenpen=lenpen, data=data, licence=licence
    )
    command.export(checkpoint, out, to=to, options=options)


@app.command()
def trim(
    model: Annotated[
        Path,
        typer.Argument(
            help="Folder of an NLLB, M2M-100 or mBART-50 model of Hugging Face's Transformers, checkpoint folder, or "
            "run (its chosen checkpoint)."
        ),
    ],
    text: Annotated[
        list[Path],
        typer.Option(help="Text in any of the languages, one sentence per line, whose tokens are kept; repeatable."),
    ],
    to: Annotated[Path, typer.Option(metavar="OUT", help="New folder.")],
    min_count: Annotated[
        int | None, typer.Option(min=1, help="Minimum number of occurrences of a token that is kept (default: 1).")
    ] = None,
    vocab_size: Annotated[
        int | None,
        typer.Option(min=1, help="Maximum number of tokens, of which the most frequent are kept (default: no limit)."),
    ] = None,
    keep_tokens: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Further tokens that are kept, one per line (default: none).")
    ] = None,
    languages: Annotated[
        str | None,
        typer.Option(
            metavar="CODE,...", help="Languages whose tokens are kept, as de or in the model's form (default: all)."
        ),
    ] = None,
) -> None:
    """Cut the vocabulary of a multilingual model to the tokens of some text.

    Text whose tokens are all kept is cut into the same tokens, and their logits do not change.
    """
    from kdmt.commands import trim as command

    command.trim(
        model,
        to,
        texts=text,
        min_count=min_count,
        vocab_size=vocab_size,
        keep_tokens=keep_tokens,
        languages=languages,
    )


@app.command()
def select(
    text: Annotated[Path, typer.Argument(help="Text with one sentence per line, plain or compressed.")],
    out: Annotated[Path, typer.Argument(help="New file for the chosen lines, in the order of the text.")],
    count: Annotated[int, typer.Option(min=1, help="Number of lines to choose.")],
    method: Annotated[
        SelectionMethod,
        typer.Option(help="Rule: ngrams covers the n-grams of the text, clusters draws from clusters of embeddings."),
    ] = "ngrams",
    order: Annotated[
        int | None, typer.Option(min=1, max=10, help="Maximum number of words of an n-gram, for ngrams (default: 3).")
    ] = None,
    decay: Annotated[
        float | None,
        typer.Option(
            min=0.0, max=1.0, help="Factor of an n-gram for each chosen line that has it, for ngrams (default: 0.5)."
        ),
    ] = None,
    characters: Annotated[
        bool,
        typer.Option("--characters", help="Whether n-grams are of characters, for ngrams (default: no)."),
    ] = False,
    like: Annotated[
        Path | None, typer.Option(help="Text whose n-grams are to be covered, for ngrams (default: that of TEXT).")
    ] = None,
    embeddings: Annotated[
        Path | None, typer.Option(metavar="FILE.npy", help="Embeddings of all lines, for clusters (default: none).")
    ] = None,
    command: Annotated[
        str | None,
        typer.Option(help="Command that writes the embeddings if there is no such file, for clusters (default: none)."),
    ] = None,
    clusters: Annotated[
        int | None, typer.Option(min=1, help="Number of clusters, for clusters (default: 5000).")
    ] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Seed of all draws, for clusters (default: 1).")] = None,
) -> None:
    """Choose lines of a large monolingual text, as sources for a teacher."""
    from kdmt.commands.select import Selection, select_lines

    options: dict[str, object] = {"order": order, "decay": decay, "characters": characters or None, "like": like}
    options |= {"embeddings": embeddings, "command": command, "clusters": clusters, "seed": seed}
    given = {name: value for name, value in options.items() if value is not None}
    for line in select_lines(text, out, Selection.of_options(method, count, given)):
        print(printable(line))


@app.command()
def schema() -> None:
    """Print a JSON schema of pipeline files, with which editors complete and check settings."""
    from kdmt.commands.schema import write_schema

    with output_text() as out:
        write_schema(out)


def _run(
    stage: StageName,
    pipeline: Path,
    overrides: list[str] | None,
    runs: Path,
    mirror: list[str] | None,
    rebuild: bool,
    student: str | None = None,
) -> None:
    from kdmt.stages.pipeline import run_command

    with _joined_workspace(pipeline, overrides, runs, mirror) as workspace:
        run_command(workspace, stage, rebuild=rebuild, student=student)


def _workspace(
    pipeline: Path, overrides: list[str] | None, runs: Path, mirrors: list[str] | None = None
) -> "Workspace":
    """Read a pipeline file."""
    from kdmt.config import load_locked_pipeline
    from kdmt.stages.workspace import Workspace

    loaded = load_locked_pipeline(pipeline, overrides or ())
    return Workspace(loaded.config, runs, _mirrors(mirrors), show=print, provenance=loaded.provenance)


def _mirrors(given: list[str] | None) -> tuple[str, ...]:
    """Return the mirrors that are given as options, else those of the environment."""
    text = os.environ.get("KDMT_MIRROR")
    if given or not text:
        return tuple(given or ())
    from kdmt.corpus.mirror import split_mirrors

    return split_mirrors(text)


@contextmanager
def _joined_workspace(
    pipeline: Path, overrides: list[str] | None, runs: Path, mirror: list[str] | None
) -> "Iterator[Workspace]":
    """Read a pipeline file, and connect the ranks that `torchrun` started while the body runs."""
    from kdmt.ranks import joined_ranks

    workspace = _workspace(pipeline, overrides, runs, mirror)
    with joined_ranks() as ranks:
        yield replace(workspace, ranks=ranks)


def main() -> None:
    """Run the command line; this is the entry point `kdmt`.

    A `UserError`, or an error of the operating system that concerns a file, is printed as one line on standard error,
    and the exit code is 2.
    """
    protect_streams()
    sys.excepthook = _print_traceback
    with printable_stderr():
        _main()


def _print_traceback(kind: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:
    with printable_stderr():
        sys.__excepthook__(kind, error, traceback)


def _main() -> None:
    try:
        with flushed_output():
            app()
    except UserError as error:
        _refuse(str(error))
    except OSError as error:
        from kdmt.files import explain_os_error

        line = explain_os_error(error)
        if line is None:
            raise
        _refuse(line)
    except Interrupted as stop:
        if os.environ.get("RANK", "0") == "0":  # all ranks stop together
            print(f"kdmt: {printable(str(stop))}", file=sys.stderr)
        sys.exit(128 + stop.signal_number)


def _refuse(message: str) -> None:
    rank = os.environ.get("RANK", "0")  # under torchrun every rank prints its own errors
    prefix = f"kdmt: {f'rank {rank}: ' if rank != '0' else ''}error"
    print(f"{prefix}: {printable(message, limit=_MAX_MESSAGE)}", file=sys.stderr)
    sys.exit(2)


if __name__ == "__main__":
    main()
