"""How the text of a pipeline's two languages is measured: which sides have words between spaces, the typical ratio of
their lengths, and the tokenizer for BLEU. All stages ask here."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from kdmt import languages
from kdmt.corpus.tokenizer import read_chunks
from kdmt.errors import UserError
from kdmt.files import read_optional_json
from kdmt.flow.manifest import Plan, recorded_plan
from kdmt.languages import Direction
from kdmt.stages.workspace import Workspace

REPORT = "report.json"  # of the prepare stage
_TOKENIZER = "bleu_tokenizer"  # among the settings of a plan


def spaced_sides(workspace: Workspace) -> tuple[bool, bool]:
    """Return whether source and target have words between spaces.

    Text that comes tokenised has them in any language.
    """
    prepare = workspace.config.prepare
    if prepare.text.already_applied or prepare.tokenizer.type == "words":
        return True, True
    source, target = workspace.direction.sides
    return languages.writes_spaces(source), languages.writes_spaces(target)


def recorded_ratio(workspace: Workspace) -> float | None:
    """Return the typical ratio that the prepare stage has recorded; None where it was made before there was one."""
    report = read_optional_json(workspace.prepare / REPORT) or {}
    return report.get("typical_ratio")


def typical_ratio(workspace: Workspace) -> float:
    """Return the typical ratio of target to source characters: the recorded one, or that of the training text."""
    from kdmt.corpus import sentence_lengths as lengths

    recorded = recorded_ratio(workspace)
    return (
        lengths.typical_ratio(training_chunks(workspace.prepare, workspace.direction)) if recorded is None else recorded
    )


def with_ratio(workspace: Workspace, plan: Plan) -> Plan:
    """Return a plan that depends on the typical ratio too, where failures are judged by one that is recorded.

    What was made before it was recorded counts as made with it.
    """
    ratio = recorded_ratio(workspace)
    if ratio is None or not workspace.config.distill.failures.max_ratio:
        return plan
    return plan.depending_on("typical_ratio", ratio, default=ratio)


def training_chunks(folder: Path, direction: Direction) -> Iterator[tuple[list[str], list[str]]]:
    """Yield the training text of a prepare stage's folder, some lines of both sides at a time."""
    sources, targets = (read_chunks(folder / f"train.{lang}") for lang in direction.sides)
    return zip(sources, targets, strict=True)


# --------------------------------------------------------------------------------------------------------------- BLEU


def bleu_tokenizer(workspace: Workspace) -> str:
    """Return sacreBLEU's tokenizer for the target language: `score.tokenize`, `auto` resolved."""
    chosen = workspace.config.score.tokenize
    return languages.bleu_tokenizer(workspace.direction.target) if chosen == "auto" else chosen


def words_tokenizer(workspace: Workspace) -> str:
    """Return the tokenizer for text as kdmt's tokenizer sees it: what Moses has tokenised is not tokenised again."""
    if workspace.config.prepare.text.moses and languages.writes_spaces(workspace.direction.target):
        return "none"
    return bleu_tokenizer(workspace)


def with_tokenizer(workspace: Workspace, plan: Plan, folder: Path) -> Plan:
    """Return the plan of a training set that is chosen by BLEU, with the tokenizer for it.

    It is the one that the training set in `folder` was chosen by, if it is made from the same files: a package that is
    installed later, or another `score.tokenize`, makes none out of date.
    """
    recorded = recorded_plan(folder)
    kept = None
    if recorded is not None and recorded.inputs == plan.inputs:
        kept = recorded.settings.get(_TOKENIZER)
    return plan.depending_on(_TOKENIZER, kept or words_tokenizer(workspace), default=_legacy_tokenizer(workspace))


def recorded_tokenizer(workspace: Workspace, folder: Path) -> str:
    """Return the tokenizer in the plan of a training set that is being made, or was.

    Raises:
        UserError: its packages are missing.
    """
    recorded = recorded_plan(folder)
    assert recorded is not None, "a training set is begun before its text is chosen"
    tokenizer = str(recorded.settings.get(_TOKENIZER, _legacy_tokenizer(workspace)))
    require_packages(tokenizer, folder)
    return tokenizer


def _legacy_tokenizer(workspace: Workspace) -> str:
    """What every language had before plans recorded it."""
    return "none" if workspace.config.prepare.text.moses else "13a"


def require_packages(tokenizer: str, where: Path) -> None:
    """Refuse to go on with a tokenizer whose packages are missing.

    Raises:
        UserError: naming the extra.
    """
    extra = languages.missing_extra(tokenizer)
    if extra is not None:
        raise UserError(
            f"{where}: begun with sacreBLEU's tokenizer {tokenizer}, whose packages are missing: "
            f"pip install 'kdmt[{extra}]'"
        )


def tokenizer_note(workspace: Workspace) -> str | None:
    """Return what the user should know of `score.tokenize: auto`; None if nothing."""
    tokenizer = languages.usual_bleu_tokenizer(workspace.direction.target)
    extra = languages.missing_extra(tokenizer)
    if workspace.config.score.tokenize != "auto" or extra is None:
        return None
    return (
        f"BLEU of {workspace.direction.target} is tokenised by {bleu_tokenizer(workspace)}: sacreBLEU's {tokenizer} "
        f"needs pip install 'kdmt[{extra}]'"
    )
