"""Model cards: the `README.md` of an exported model, in the format of the Hugging Face hub.

A card is made from a checkpoint and, if the checkpoint is in the folder of a pipeline, from the files of this folder:

    runs/x/
        scores.json                        scores of the checkpoint, which is found by its SHA-256
        prepare/report.json                corpora with their numbers of pairs and licences
        distill/manifest.json              numbers of distilled pairs
        students/NAME/seed_1/config.json   settings of the training
        students/NAME/seed_1/average       the checkpoint

It contains no paths of this machine: of a local file only the name.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path, PurePath
from typing import Any

from kdmt.config import Context
from kdmt.config.directions import decoder_reads_token
from kdmt.config.yaml_text import write_yaml
from kdmt.corpus.codec import TEXT_FILE, load_text_processor
from kdmt.corpus.text import TextProcessor
from kdmt.errors import UserError
from kdmt.files import read_json, read_optional_json
from kdmt.languages import Direction, parse_language
from kdmt.models.average_record import AVERAGES, average_of
from kdmt.models.checkpoint import num_parameters
from kdmt.models.checkpoint_folder import checkpoint_sha256
from kdmt.models.description import read_description

UNKNOWN = "unknown"  # identifier of the hub for an unknown licence
_RUN_LEVELS = 4  # most folders between a training run and the folder of its pipeline
_METRIC_NAMES = {"bleu": "BLEU", "chrf": "chrF", "chrf++": "chrF++", "ter": "TER", "spbleu": "spBLEU"}
_HUB_METRICS = {"chrf++": "chrf", "spbleu": "bleu"}  # identifiers of the hub, where they are other ones
_OBJECTIVES = {
    "word_kd": "word-level distillation",
    "hidden_kd": "distillation of hidden states",
    "attention_kd": "distillation of attention maps",
    "online": "online distillation",
    "on_policy": "on-policy distillation",
    "selective": "selective distillation",
}  # section of a student -> description
# settings of a model in `distill.teachers` that name it
_TEACHER_NAMES = ("model", "huggingface", "checkpoint", "ctranslate2", "ctranslate2_generator")


@dataclass(frozen=True)
class ExportFormat:
    """The parts of a card that depend on the format of the export.

    Attributes:
        label: name of the toolkit.
        usage: Markdown text that shows how to translate with the exported model.
        library: value of `library_name`, None if the hub does not know the toolkit.
        tags: tags of the format.
    """

    label: str
    usage: str
    library: str | None = None
    tags: tuple[str, ...] = ()


def model_card(checkpoint: Path, exported: ExportFormat, *, licence: str = UNKNOWN, has_scores: bool = True) -> str:
    """Return the card of the model of a checkpoint.

    Args:
        checkpoint: checkpoint folder.
        exported: format of the export.
        licence: licence of the model, as an identifier of the hub.
        has_scores: whether the card has the recorded scores of the checkpoint.

    Raises:
        UserError: if a file of the checkpoint or of the folder of its pipeline is damaged.
    """
    run = _Run.find(checkpoint)
    text = load_text_processor(checkpoint / TEXT_FILE) if (checkpoint / TEXT_FILE).exists() else None
    directions = _directions(text, run)
    scores = run.scores(checkpoint_sha256(checkpoint)) if has_scores else []
    parts = [
        f"---\n{write_yaml(_front_matter(run, directions, scores, exported, licence))}---\n",
        f"# {run.title}\n",
        _introduction(checkpoint, directions, exported),
        "## How to use it\n",
        f"{exported.usage.strip()}\n",
        *([_language_table(text)] if text is not None and text.directions else []),
        *([_context_note(text.context)] if text is not None and text.context is not None else []),
        *(["## Scores\n", _score_table(scores)] if has_scores else []),
        "## Training data\n",
        _training_data(run),
        "## How it was made\n",
        _making(checkpoint, run),
    ]
    return "\n".join(parts)


# ------------------------------------------------------------------------------------------------------------- the run


@dataclass(frozen=True)
class _Run:
    """The training run of a checkpoint and the folder of its pipeline, as far as they exist.

    Attributes:
        title: name of the model.
        root: folder of the pipeline; None if the checkpoint is not in one.
        system: name of the student, or `teacher`.
        config: the whole pipeline with which the model was trained.
    """

    title: str
    root: Path | None = None
    system: str | None = None
    config: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def find(cls, checkpoint: Path) -> _Run:
        """Return the run that a checkpoint is in."""
        folder = checkpoint.absolute().parent
        config = read_optional_json(folder / "config.json") or {}
        above = [folder, *folder.parents][: _RUN_LEVELS + 1]
        root = next((each for each in above[1:] if (each / "prepare").is_dir()), None)
        if root is None or not {"name", "prepare"} <= config.keys():
            return cls(checkpoint.absolute().name)
        names = folder.relative_to(root).parts
        system = names[1] if names[0] == "students" and len(names) > 1 else names[0]
        return cls(f"{config['name']}: {system}", root, system, config)

    def scores(self, sha256: str) -> list[dict[str, Any]]:
        """Return the rows of scores.json for a checkpoint."""
        path = None if self.root is None else self.root / "scores.json"
        if path is None or not path.is_file():
            return []
        rows = read_json(path)
        if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
            raise UserError(f"{path}: not a list of scores")
        return [row for row in rows if row.get("checkpoint_sha256") == sha256 and isinstance(row.get("scores"), dict)]

    def read(self, *names: str) -> dict[str, Any]:
        """Return the JSON object in a file below the folder of the pipeline; empty if there is no such file."""
        return {} if self.root is None else read_optional_json(self.root.joinpath(*names)) or {}

    def setting(self, *names: str) -> Any:
        """Return a setting of the pipeline; None if there is none."""
        value: Any = self.config
        for name in names:
            value = value.get(name) if isinstance(value, dict) else None
        return value


def _directions(text: TextProcessor | None, run: _Run) -> tuple[Direction, ...]:
    """Return the directions of a model; none if they are unknown."""
    if text is not None:
        return text.all_directions
    languages = run.setting("source_lang"), run.setting("target_lang")
    return (Direction(*map(str, languages)),) if all(languages) else ()


# -------------------------------------------------------------------------------------------------------- front matter


def _front_matter(
    run: _Run,
    directions: Sequence[Direction],
    scores: Sequence[Mapping[str, Any]],
    exported: ExportFormat,
    licence: str,
) -> dict[str, Any]:
    metrics = dict.fromkeys(_HUB_METRICS.get(name, name) for row in scores for name in row["scores"])
    codes = [code for each in directions for code in each.sides]
    values: dict[str, Any] = {
        "language": list(dict.fromkeys(map(_language_of_hub, codes))),
        "license": licence,
        "library_name": exported.library,
        "pipeline_tag": "translation",
        "tags": ["translation", "machine-translation", "knowledge-distillation", "kdmt", *exported.tags],
        "datasets": _dataset_names(run),
        "metrics": list(metrics),
        "model-index": _model_index(run, directions, scores),
    }
    return {name: value for name, value in values.items() if value}


def _language_of_hub(code: str) -> str:
    """Return the code of a language without script and region, as the hub expects it."""
    try:
        return parse_language(code).language
    except ValueError:
        return code


def _dataset_names(run: _Run) -> list[str]:
    """Return the names of the data sets that the pipeline gives by name."""
    corpora = run.read("prepare", "report.json").get("corpora")
    names = [_corpus_name(corpus) for corpus in corpora] if isinstance(corpora, list) else []
    found = [match[1] for name in names if (match := re.fullmatch(r"\w+: ?(\S+)", name)) and "://" not in name]
    return list(dict.fromkeys(found))


def _model_index(
    run: _Run, directions: Sequence[Direction], scores: Sequence[Mapping[str, Any]]
) -> list[dict[str, Any]] | None:
    """Return the results of the model on each test set, with the signature of each score as the metric's `args`."""
    if not scores:
        return None
    results = []
    for test_set, of_row in dict.fromkeys((row["test_set"], row.get("direction")) for row in scores):
        metrics = [
            {
                "type": _HUB_METRICS.get(name, name),
                "name": f"{_METRIC_NAMES.get(name, name)} ({_way(row)})",
                "value": round(score["value"], 4),
                "args": {"signature": score["signature"]},
            }
            for row in scores
            if (row["test_set"], row.get("direction")) == (test_set, of_row)
            for name, score in row["scores"].items()
        ]
        direction = of_row or (str(directions[0]) if directions else "")
        results.append(
            {
                "task": {"type": "translation", "name": f"Translation {direction}".rstrip()},
                "dataset": {"type": test_set, "name": test_set},
                "metrics": metrics,
            }
        )
    return [{"name": run.title, "results": results}]


def _way(row: Mapping[str, Any]) -> str:
    """Return in which way a row of scores.json was decoded."""
    iterations = row.get("iterations")
    search = f"{iterations} iterations" if iterations is not None else f"beam {row['beam']}"
    return f"{row['engine']} {row['compute_type']}, {search}"


# ---------------------------------------------------------------------------------------------------------------- text


def _introduction(checkpoint: Path, directions: Sequence[Direction], exported: ExportFormat) -> str:
    each = [f"from `{direction.source}` to `{direction.target}`" for direction in directions]
    languages = f" {', '.join(each)}," if len(each) > 1 else "".join(f" {one}" for one in each)
    return (
        f"Translation model{languages} with {num_parameters(checkpoint):,} parameters, exported to {exported.label} by "
        f"kdmt {version('kdmt')}.\n"
    )


def _language_table(text: TextProcessor) -> str:
    """Return a table of the language tokens for each direction of a model with several."""
    lines = ["The model knows the direction from language tokens:\n"]
    if decoder_reads_token(text.language_tokens):
        lines += ["| direction | before the source | after `</s>` in the decoder |", "| --- | --- | --- |"]
        for direction, (first, *others) in text.prefixes.items():
            lines.append(f"| {direction} | {' '.join(f'`{token}`' for token in others)} | `{first}` |")
    else:
        lines += ["| direction | before the source |", "| --- | --- |"]
        lines += [f"| {direction} | `{' '.join(tokens)}` |" for direction, tokens in text.prefixes.items()]
    return "\n".join(lines) + "\n"


def _context_note(context: Context) -> str:
    """Return how a model with context reads a sentence."""
    previous = "the previous sentence" if context.sentences == 1 else f"up to {context.sentences} previous sentences"
    return (
        f"The model reads {previous} of the document before each sentence, with `{context.separator}` after each, also "
        f"before a sentence without any: `It rained . {context.separator} We stayed in .` Only the last sentence is "
        "translated.\n"
    )


def _score_table(scores: Sequence[Mapping[str, Any]]) -> str:
    if not scores:
        return "There are no recorded scores of this checkpoint.\n"
    lines = ["| test set | decoding | metric | score | signature |", "| --- | --- | --- | --- | --- |"]
    lines += [
        f"| {_name_of_test_set(row)} | {_way(row)} | {_METRIC_NAMES.get(name, name)} | {score['value']:.4g} | "
        f"`{_in_table(score['signature'])}` |"
        for row in scores
        for name, score in row["scores"].items()
    ]
    return "\n".join(lines) + "\n\nThese are scores of the checkpoint as decoded above, not of this export.\n"


def _name_of_test_set(row: Mapping[str, Any]) -> str:
    """Return the name of the test set of a row, with the direction if there are several."""
    return f"{row['test_set']} {row['direction']}" if row.get("direction") else str(row["test_set"])


def _in_table(text: str) -> str:
    return text.replace("|", "\\|")


def _corpus_name(corpus: Any) -> str:
    """Return the name of a corpus in a report, without its YAML path and without the folders of a local file."""
    name = str(corpus.get("name")) if isinstance(corpus, dict) else str(corpus)
    name = re.sub(r"^(prepare\.)?\w+\.\d+ ", "", name)
    name = name[1:-1] if name.startswith("(") and name.endswith(")") else name
    return name if "://" in name or ": " in name else PurePath(name).name


def _training_data(run: _Run) -> str:
    report = run.read("prepare", "report.json")
    corpora = report.get("corpora")
    if not isinstance(corpora, list) or not corpora:
        return "The training data is not recorded in the folder of the checkpoint.\n"
    lines = ["| corpus | pairs read | pairs kept |", "| --- | --- | --- |"]
    lines += [
        f"| {_corpus_name(each)} | {each.get('pairs_in', 0):,} | {each.get('pairs_kept', 0):,} |" for each in corpora
    ]
    return "\n".join([*lines, "", *_licence_lines(report)])


def _licence_lines(report: Mapping[str, Any]) -> list[str]:
    licences = report.get("licences")
    if not isinstance(licences, dict):
        return ["The licences of the corpora are not recorded: the pipeline has no lock file.\n"]
    known = licences.get("known") or {}
    lines = [f"- licence {licence}: {', '.join(map(str, texts))}" for licence, texts in known.items()]
    if licences.get("unknown"):
        lines.append(f"- no licence known: {', '.join(map(str, licences['unknown']))}")
    return [*lines, ""]


def _making(checkpoint: Path, run: _Run) -> str:
    lines = [f"- Architecture: {_shape(checkpoint)}"]
    if run.system is not None:
        lines += _training(run)
    updates = average_of(checkpoint) if checkpoint.name in AVERAGES else None
    averaged = f", the mean of the updates {', '.join(map(str, updates))}" if updates else ""
    sha256 = checkpoint_sha256(checkpoint)
    lines.append(f"- Checkpoint: `{checkpoint.name}`{averaged}; SHA-256 of its weights `{sha256}`")
    lines.append("- `checksums.json` has the SHA-256 of each file of this export.")
    return "\n".join(lines) + "\n"


def _shape(checkpoint: Path) -> str:
    description = read_description(checkpoint)
    config = description["config"]
    family = f"non-autoregressive (`{description['nat']['family']}`)" if "nat" in description else "Transformer"
    sizes = [f"{config[f'{side}_layers']} {side} layers" for side in ("encoder", "decoder")]
    return (
        f"{family}, {sizes[0]}, {sizes[1]}, width {config['encoder_embed_dim']}, feed-forward width "
        f"{config['encoder_ffn_embed_dim']}, {config['encoder_attention_heads']} attention heads, vocabulary of "
        f"{description['src_vocab_size']:,} and {description['tgt_vocab_size']:,} tokens"
    )


def _training(run: _Run) -> list[str]:
    """Return lines about the teacher, the distilled data and the training of a student; one line for a teacher."""
    if run.system == "teacher":
        return ["- Training: on parallel text"]
    student = run.setting("students", str(run.system)) or {}
    found = [name for section, name in _OBJECTIVES.items() if student.get(section)]
    objectives = f" with {', '.join(found)}" if found else ""
    lines = [f"- Teacher: {_teacher(run)}", f"- Training: on `data: {_data_of(student)}`{objectives}"]
    facts = run.read("distill", "manifest.json").get("facts")
    if isinstance(facts, dict) and isinstance(facts.get("num_sentences"), int):
        beam = run.setting("distill", "decode", "beam")
        lines.append(f"- Distillation: {facts['num_sentences']:,} sentences translated by the teacher, beam {beam}")
    return lines


def _data_of(student: Mapping[str, Any]) -> str:
    data = student.get("data")
    if isinstance(data, list):
        return ", ".join(f"{each['set']} {each['share']}" for each in data)
    return str(data)


def _teacher(run: _Run) -> str:
    """Return the models that translate: those of `distill.teachers`, else the teacher of the pipeline."""
    given = run.setting("distill", "teachers") or []
    if isinstance(given, dict):  # of several directions
        return ", ".join(f"{name}: {_teachers_of_direction(each)}" for name, each in given.items())
    names = [_teacher_name(each) for each in given]
    if names:
        return ", ".join(names)
    arch = run.setting("teacher", "model", "arch")
    return f"the pipeline's own, `arch: {arch}`" if arch else "the pipeline's own"


def _teachers_of_direction(given: Any) -> str:
    if given is None:
        return "original targets"
    if isinstance(given, dict) and "pivot" in given:
        return f"{' and '.join(map(_teacher_name, given['teachers']))} through {given['pivot']}"
    return " and ".join(map(_teacher_name, given if isinstance(given, list) else [given]))


def _teacher_name(teacher: Any) -> str:
    """Return the name of a model that is given as a path, a name on the hub, or a mapping with one of them."""
    if isinstance(teacher, dict):
        known = [teacher.get(key) for key in _TEACHER_NAMES]
        teacher = next(filter(None, known), UNKNOWN)
    name = str(teacher)
    is_local = name.startswith(("/", ".", "~")) or name.count("/") > 1
    return f"`{PurePath(name).name if is_local else name}`"
