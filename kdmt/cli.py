"""The command line: one command per stage. Parses, calls, prints; no logic.

kdmt new x.yaml --source en --target cs
kdmt run x.yaml [--to STAGE] [--student NAME] [--set a.b=c]
kdmt status x.yaml
kdmt prepare|teacher|distill|knowledge|student|score x.yaml [--set a.b=c]
kdmt import-fairseq DATA_BIN x.yaml
kdmt translate runs/x/teacher < input.txt > output.txt
kdmt generate DATA_BIN --path runs/x/teacher --beam 5 --remove-bpe
kdmt export --to ctranslate2 runs/x/students/small/seed_1 OUT
kdmt import-checkpoint checkpoint_best.pt OUT --data DATA_BIN
kdmt clean x.yaml [--yes]
"""

from __future__ import annotations

import json
import os
import sys
from enum import StrEnum
from pathlib import Path
from types import TracebackType
from typing import Annotated

import typer

from kdmt import __version__
from kdmt.choices import StageName, TemplateName
from kdmt.errors import Interrupted, UserError
from kdmt.streams import flushed_output, input_bytes, output_bytes, output_text, protect_streams
from kdmt.terminal import printable, printable_stderr

app = typer.Typer(
    help="Sequence-level knowledge distillation for neural machine translation, end to end.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

PipelineFile = Annotated[Path, typer.Argument(metavar="PIPELINE.yaml", help="The pipeline's YAML file.")]
Overrides = Annotated[list[str] | None, typer.Option("--set", metavar="A.B=C", help="Override a setting; repeatable.")]
Runs = Annotated[Path, typer.Option(envvar="KDMT_RUNS", help="Folder for the outputs of all pipelines.")]
Mirror = Annotated[
    Path | None, typer.Option(envvar="KDMT_MIRROR", help="Local folder that answers for URLs of corpora.")
]
StudentName = Annotated[str | None, typer.Option(help="Name of the one student to train (default: all).")]
Rebuild = Annotated[bool, typer.Option("--rebuild", help="Bring stages that this one builds on up to date too.")]
RUNS = Path("runs")
_MAX_MESSAGE = 4000  # characters
_MOST_THREADS = 1024


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
def new(
    pipeline: Annotated[Path, typer.Argument(metavar="PIPELINE.yaml", help="New pipeline file.")],
    source: Annotated[str | None, typer.Option(help="Source language, as en or zh-Hans.")] = None,
    target: Annotated[str | None, typer.Option(help="Target language, as cs or sr-Latn.")] = None,
    template: Annotated[TemplateName, typer.Option(help="Template to start from.")] = "minimal",
    name: Annotated[str | None, typer.Option(help="Name of the pipeline (default: the file's name).")] = None,
) -> None:
    """Write a commented pipeline file; the template toy brings its corpus along."""
    from kdmt.commands.new import new_pipeline

    for path in new_pipeline(pipeline, source=source, target=target, template=template, name=name):
        print(printable(str(path)))


@app.command()
def run(
    pipeline: PipelineFile,
    to: Annotated[StageName, typer.Option(help="Last stage to run.")] = "score",
    student: StudentName = None,
    set_: Overrides = None,
    runs: Runs = RUNS,
    mirror: Mirror = None,
) -> None:
    """Run every stage that is not up to date, up to a stage."""
    from kdmt.commands.run import run_pipeline
    from kdmt.config import load_pipeline
    from kdmt.ranks import joined_ranks
    from kdmt.stages.workspace import Workspace

    config = load_pipeline(pipeline, set_ or ())
    with joined_ranks() as ranks:
        run_pipeline(Workspace(config, runs, mirror, ranks, show=print), to=to, student=student)


@app.command()
def status(
    pipeline: PipelineFile,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
    set_: Overrides = None,
    runs: Runs = RUNS,
) -> None:
    """Show every stage, whether it is up to date and why not, and the size and age of its folder."""
    from kdmt.commands.status import pipeline_status, status_lines, status_record
    from kdmt.config import load_pipeline
    from kdmt.stages.workspace import Workspace

    workspace = Workspace(load_pipeline(pipeline, set_ or ()), runs)
    statuses = pipeline_status(workspace)
    if as_json:
        print(json.dumps(status_record(workspace, statuses), indent=1, ensure_ascii=False))
        return
    for line in status_lines(statuses):
        print(printable(line))


@app.command()
def prepare(
    pipeline: PipelineFile, set_: Overrides = None, runs: Runs = RUNS, mirror: Mirror = None, rebuild: Rebuild = False
) -> None:
    """Clean, decontaminate, tokenise and binarise the corpora."""
    _run("prepare", pipeline, set_, runs, mirror, rebuild)


@app.command("import-fairseq")
def import_fairseq(
    data_bin: Annotated[Path, typer.Argument(metavar="DATA_BIN", help="A folder that fairseq-preprocess made.")],
    pipeline: Annotated[Path, typer.Argument(metavar="PIPELINE.yaml", help="The new pipeline file.")],
    name: Annotated[str | None, typer.Option(help="Of the pipeline; by default the file's.")] = None,
    source_lang: Annotated[str | None, typer.Option("--source-lang", "-s", help="By default the files' own.")] = None,
    target_lang: Annotated[str | None, typer.Option("--target-lang", "-t")] = None,
    bpe_codes: Annotated[Path | None, typer.Option(help="The subword-nmt operations that the text was cut by.")] = None,
    sentencepiece: Annotated[Path | None, typer.Option(help="The SentencePiece model that it was cut by.")] = None,
    remove_bpe: Annotated[
        str | None, typer.Option(help="Without either: how tokens are joined for scores, as subword_nmt.")
    ] = None,
    moses: Annotated[bool, typer.Option("--moses", help="The text was tokenised by Moses before.")] = False,
    lowercase: Annotated[bool, typer.Option("--lowercase", help="The text was lowercased before.")] = False,
    runs: Runs = RUNS,
) -> None:
    """Make a pipeline whose prepare stage is a data-bin of fairseq's, dictionaries and all, and run that stage."""
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


@app.command()
def teacher(
    pipeline: PipelineFile, set_: Overrides = None, runs: Runs = RUNS, mirror: Mirror = None, rebuild: Rebuild = False
) -> None:
    """Train the teacher, or go on training it."""
    _run("teacher", pipeline, set_, runs, mirror, rebuild)


@app.command()
def distill(
    pipeline: PipelineFile,
    shard: Annotated[
        str | None,
        typer.Option(
            metavar="I/N",
            help="Decode every N-th block from the I-th on, from 0. Without it later to put them together.",
        ),
    ] = None,
    verify: Annotated[
        bool, typer.Option("--verify", help="Check all that is there, and decode some blocks again.")
    ] = False,
    verify_blocks: Annotated[int, typer.Option(min=0, help="Blocks that --verify decodes again.")] = 2,
    verify_seed: Annotated[int | None, typer.Option(help="Of their choice; by default a new one.")] = None,
    set_: Overrides = None,
    runs: Runs = RUNS,
    mirror: Mirror = None,
    rebuild: Rebuild = False,
) -> None:
    """Let the teacher translate the training set."""
    if verify or shard is not None:
        from kdmt.config import load_pipeline
        from kdmt.stages.pipeline import run_shards, run_verification
        from kdmt.stages.workspace import Workspace

        workspace = Workspace(load_pipeline(pipeline, set_ or ()), runs, mirror)
        if shard is not None:
            run_shards(workspace, *_parse_shard(shard), rebuild=rebuild)
        if verify:
            run_verification(workspace, blocks=verify_blocks, seed=verify_seed)
        return
    _run("distill", pipeline, set_, runs, mirror, rebuild)


def _parse_shard(text: str) -> tuple[int, int]:
    shard, slash, shards = text.partition("/")
    if not (slash and all(part.isascii() and part.isdigit() for part in (shard, shards))):
        raise UserError(f"--shard {text!r}: expected I/N, as 0/8")
    return int(shard), int(shards)


@app.command()
def knowledge(
    pipeline: PipelineFile, set_: Overrides = None, runs: Runs = RUNS, mirror: Mirror = None, rebuild: Rebuild = False
) -> None:
    """Keep what the teacher expects at every target token, for students that learn from a cache."""
    _run("knowledge", pipeline, set_, runs, mirror, rebuild)


@app.command()
def student(
    pipeline: PipelineFile,
    student: StudentName = None,
    set_: Overrides = None,
    runs: Runs = RUNS,
    mirror: Mirror = None,
    rebuild: Rebuild = False,
) -> None:
    """Train the students, once for each of their seeds."""
    _run("student", pipeline, set_, runs, mirror, rebuild, student=student)


@app.command()
def score(
    pipeline: PipelineFile, set_: Overrides = None, runs: Runs = RUNS, mirror: Mirror = None, rebuild: Rebuild = False
) -> None:
    """Translate the test sets with every system and report BLEU, chrF, speed and significance."""
    _run("score", pipeline, set_, runs, mirror, rebuild)


@app.command()
def clean(
    pipeline: PipelineFile,
    names: Annotated[
        list[str] | None,
        typer.Argument(metavar="[NAME]...", help="Only these, as they are listed, as teacher.previous (default: all)."),
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Remove what is listed (default: list only).")] = False,
    set_: Overrides = None,
    runs: Runs = RUNS,
) -> None:
    """List earlier states of stages and half-done folders with their sizes, and remove them on request."""
    from kdmt.commands.clean import clean as clean_up
    from kdmt.config import load_pipeline
    from kdmt.stages.workspace import Workspace

    clean_up(Workspace(load_pipeline(pipeline, set_ or ()), runs), names or (), removing=yes, show=print)


@app.command()
def translate(
    checkpoint: Annotated[
        Path, typer.Argument(help="A checkpoint folder, a run that holds one, or what 'kdmt export' wrote.")
    ],
    beam: Annotated[int | None, typer.Option(min=1, help="Default: what 'kdmt export' was given, else 5.")] = None,
    lenpen: Annotated[
        float | None, typer.Option(help="Exponent of the length; default: what 'kdmt export' was given, else 1.")
    ] = None,
    max_len_a: Annotated[float, typer.Option()] = 1.2,
    max_len_b: Annotated[int, typer.Option()] = 10,
    iterations: Annotated[int, typer.Option(min=1, max=10_000, help="At most, of a non-autoregressive model.")] = 10,
    length_beam: Annotated[int, typer.Option(min=1, max=256, help="Lengths tried, of a non-autoregressive model.")] = 1,
    buffer_size: Annotated[int, typer.Option(min=1, help="Lines that are translated together at most.")] = 1024,
    threads: Annotated[int, typer.Option(min=0, max=_MOST_THREADS, help="CPU threads; 0 for one a core.")] = 0,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, ...")] = "auto",
) -> None:
    """Translate raw text from standard input to standard output, one line for one line, as it arrives.

    A line that is not UTF-8 is named on standard error and has an empty translation; the exit code is 2 at the end.
    """
    from kdmt.config import Decode, NATDecode, checked
    from kdmt.decode.engines.translator import Translator, translate_stream
    from kdmt.interop.ctranslate2 import proposed_search
    from kdmt.runtime import pick_device, use_threads

    source, target = input_bytes(), output_bytes()
    given = {name: value for name, value in (("beam", beam), ("lenpen", lenpen)) if value is not None}
    checked(Decode, "translate", max_len_a=max_len_a, max_len_b=max_len_b, **given)
    use_threads(threads)
    search = NATDecode(length_beam=length_beam)
    translator = Translator.load(checkpoint, device=pick_device(device), search=search, iterations=iterations)
    settings = Decode(**{"max_len_a": max_len_a, "max_len_b": max_len_b} | proposed_search(checkpoint) | given)
    translate_stream(translator, settings, source, target, buffer_size=buffer_size)


@app.command(
    add_help_option=False,
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True, "allow_interspersed_args": False},
)
def generate(context: typer.Context) -> None:
    """Translate a split of a data-bin with fairseq-generate's flags and write its lines; --help lists them."""
    from kdmt.commands.generate import generate as write_lines
    from kdmt.interop.fairseq.flags import parse_generate

    write_lines(parse_generate(context.args))


@app.command("fairseq-plugin")
def fairseq_plugin() -> None:
    """Print the folder for fairseq-train's --user-dir that has the criterions word_kd and seq_kd."""
    print(Path(__file__).parent / "interop" / "fairseq_plugin" / "kdmt_fairseq")


class ComputeType(StrEnum):
    float32 = "float32"
    float16 = "float16"
    int8 = "int8"


@app.command()
def rescore(
    checkpoint: Annotated[
        Path, typer.Argument(help="A checkpoint folder, or what 'kdmt export --to ctranslate2' wrote.")
    ],
    source: Annotated[Path, typer.Argument(help="Raw text in the model's source language, one sentence a line.")],
    target: Annotated[Path, typer.Argument(help="Its translations.")],
    compute_type: Annotated[
        ComputeType, typer.Option(help="Of CTranslate2; float16 is for GPUs.")
    ] = ComputeType.float32,
    workers: Annotated[int, typer.Option(min=0, help="Processes; 0 for one a core, or one a GPU.")] = 0,
    threads: Annotated[int, typer.Option(min=1, max=_MOST_THREADS, help="CPU threads of each.")] = 1,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, ...")] = "auto",
) -> None:
    """Write the log-probability of each target given its source, and its number of tokens, to standard output."""
    from kdmt.commands.rescore import rescore as write_scores

    with output_text() as out:
        write_scores(
            checkpoint,
            source,
            target,
            out,
            compute_type=compute_type.value,
            workers=workers,
            threads=threads,
            device=device,
        )


@app.command()
def import_checkpoint(
    checkpoints: Annotated[
        str, typer.Argument(metavar="A.pt[:B.pt]", help="fairseq's checkpoints; several with ':' between.")
    ],
    out: Annotated[Path, typer.Argument(help="The new checkpoint folder; of several checkpoints OUT/0, OUT/1, ...")],
    data: Annotated[Path, typer.Option(help="Their data-bin, or a folder with its dict.<lang>.txt.")],
    source_lang: Annotated[str | None, typer.Option(help="By default what the checkpoint says.")] = None,
    target_lang: Annotated[str | None, typer.Option(help="By default what the checkpoint says.")] = None,
    bpe_codes: Annotated[Path | None, typer.Option(help="Merge operations of subword-nmt or fastBPE.")] = None,
    sentencepiece: Annotated[
        Path | None, typer.Option(help="A SentencePiece model. Without either, text comes cut into tokens.")
    ] = None,
    normalize: Annotated[
        bool, typer.Option("--normalize", help="Text had its punctuation normalised by Moses.")
    ] = False,
    moses: Annotated[bool, typer.Option("--moses", help="Text was tokenised by Moses, with its escapes.")] = False,
    lowercase: Annotated[bool, typer.Option("--lowercase", help="Text was lowercased.")] = False,
) -> None:
    """Make checkpoint folders of fairseq's checkpoints, for translating, as teachers, for export."""
    from kdmt.config import Text
    from kdmt.interop.fairseq.checkpoints import TextSettings, import_checkpoints

    text = Text(normalize=normalize, moses=moses, lowercase=lowercase, already_applied=moses)
    settings = TextSettings(
        data=data,
        source_lang=source_lang,
        target_lang=target_lang,
        bpe_codes=bpe_codes,
        sentencepiece=sentencepiece,
        text=text,
    )
    for folder in import_checkpoints(checkpoints, out, settings):
        print(printable(str(folder)))


class ExportFormat(StrEnum):
    ctranslate2 = "ctranslate2"
    fairseq = "fairseq"
    onnx = "onnx"


class Quantization(StrEnum):
    float32 = "float32"
    float16 = "float16"
    int8 = "int8"


@app.command()
def export(
    checkpoint: Annotated[Path, typer.Argument(help="A checkpoint folder, or a run that holds one.")],
    out: Annotated[Path, typer.Argument(help="The new folder; for fairseq the new .pt file.")],
    to: Annotated[
        ExportFormat,
        typer.Option(
            help="ctranslate2 for models that write one token after the other, onnx for ctc students, fairseq for what "
            "fairseq has too."
        ),
    ],
    quantization: Annotated[
        Quantization, typer.Option(help="How CTranslate2's weights are stored; float16 is for GPUs.")
    ] = Quantization.float32,
    beam: Annotated[
        int,
        typer.Option(min=1, help="Of CTranslate2's model: 'kdmt translate' takes it by default."),
    ] = 5,
    lenpen: Annotated[float, typer.Option(help="The same: the exponent of the length.")] = 1.0,
) -> None:
    """Write a trained model for another toolkit, with its tokenizer and text processing."""
    from kdmt.config import Decode, checked
    from kdmt.interop import ctranslate2, onnx
    from kdmt.interop.fairseq import checkpoints as fairseq

    if to is ExportFormat.ctranslate2:
        decode = checked(Decode, "export", beam=beam, lenpen=lenpen)
        ctranslate2.export_checkpoint(checkpoint, out, quantization=quantization.value, decode=decode)
    elif quantization is not Quantization.float32:
        name = "ONNX" if to is ExportFormat.onnx else "fairseq"
        raise UserError(f"--quantization {quantization.value}: {name} models are float32")
    elif to is ExportFormat.fairseq:
        fairseq.export_checkpoint(checkpoint, out)
    else:
        onnx.export_checkpoint(checkpoint, out)
    print(f"{to.value} model, {quantization.value}: {printable(str(out))}")


@app.command()
def schema() -> None:
    """Print a JSON schema of pipeline files, with which editors complete and check settings."""
    from kdmt.commands.schema import write_schema

    with output_text() as out:
        write_schema(out)


def _run(
    stage: str,
    pipeline: Path,
    overrides: list[str] | None,
    runs: Path,
    mirror: Path | None,
    rebuild: bool,
    student: str | None = None,
) -> None:
    from kdmt.config import load_pipeline
    from kdmt.ranks import joined_ranks
    from kdmt.stages.pipeline import run_command
    from kdmt.stages.workspace import Workspace

    config = load_pipeline(pipeline, overrides or ())
    with joined_ranks() as ranks:
        run_command(Workspace(config, runs, mirror, ranks, show=print), stage, rebuild=rebuild, student=student)


def main() -> None:
    """The entry point `kdmt`: a `UserError`, or an error of the operating system that concerns a file, is one line on
    standard error and exit code 2."""
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
