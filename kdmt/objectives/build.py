"""From the settings of a training to its objective: models put together, teachers loaded."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdmt.config import NAT, Model, Student, Train
from kdmt.errors import UserError
from kdmt.objectives.model_checks import check_inside, check_positions, learns_from_running
from kdmt.stages.workspace import Workspace
from kdmt.types import POSITIONAL

if TYPE_CHECKING:
    from kdmt.corpus.knowledge_cache import KnowledgeSource


@dataclass(frozen=True)
class Job:
    """What one training needs to know."""

    name: str
    folder: Path
    model: Model
    train: Train
    seed: int
    data: tuple[str, ...]  # names of training sets
    path: str  # of its settings
    initialise: Callable[[Any], None] = lambda _: None  # sets weights of a fresh model before training
    student: Student | None = None


def make_objective(workspace: Workspace, job: Job, model: Any, knowledge: KnowledgeSource | None) -> Any:
    """The objective that a training's settings ask for.

    Args:
        knowledge: what the caches say, for a student that learns from them.

    Raises:
        UserError: a teacher does not fit, or cannot give what is asked of it.
    """
    import torch

    from kdmt.objectives.distillation import DistillationObjective, WordLesson
    from kdmt.objectives.objective import CrossEntropyObjective

    student, smoothing = job.student, job.train.label_smoothing
    if student is not None and student.nat is not None and student.nat.family not in POSITIONAL:
        source_lessons = _source_lessons(workspace, job, student, model)
        return nonautoregressive_objective(
            student.nat, model, {"label_smoothing": smoothing}, source_lessons=source_lessons
        )
    if student is None or not any(
        (student.nat, student.word_kd, student.hidden_kd, student.attention_kd, student.self_supervised)
    ):
        return CrossEntropyObjective(model, label_smoothing=smoothing)
    if student.word_kd is not None and student.word_kd.top1_ranking > model.tgt_vocab_size:
        raise UserError(
            f"{job.path}.word_kd.top1_ranking ({student.word_kd.top1_ranking}) is more than "
            f"the vocabulary's {model.tgt_vocab_size} tokens"
        )
    if student.online is not None:
        return _online_objective(job, student, model)
    teachers = _load_teachers(workspace, job, student, model) if learns_from_running(student) else []
    marginal_V = None if knowledge is None else torch.from_numpy(knowledge.marginal)
    kd = student.word_kd
    word = None if kd is None else WordLesson(kd, label_smoothing=smoothing, marginal_V=marginal_V)
    common = {
        "label_smoothing": smoothing,
        "teachers": teachers,
        "word": word,
        "lessons": _lessons(student, model, teachers[:1]),
        "on_policy": _on_policy(student),
        "self_supervised": _self_supervised(student, model),
        "teacher_precision": student.teacher_precision,
    }
    if student.nat is not None:
        return nonautoregressive_objective(student.nat, model, common)
    return DistillationObjective(model, **common)


def nonautoregressive_objective(nat: NAT, model: Any, common: Mapping[str, Any], *, source_lessons: Any = None) -> Any:
    """The objective of a family.

    Args:
        common: arguments of `DistillationObjective`, label smoothing at least; the other ones are for families whose
            positions are the target's.
        source_lessons: what the encoders of the other families learn from a teacher's.
    """
    from kdmt.objectives.aligned import CTCObjective, DAGObjective
    from kdmt.objectives.edited import InsertionObjective, LevenshteinObjective
    from kdmt.objectives.positional import CRFObjective, MaskedObjective, PositionsObjective, RefinedObjective

    own = {"deep_supervision": nat.deep_supervision, "source_lessons": source_lessons}
    if nat.family == "ctc":
        return CTCObjective(model, glancing=nat.glancing, distance=nat.distance, too_long=nat.too_long, **own)
    if nat.family == "dag":
        return DAGObjective(model, glancing=nat.glancing, too_long=nat.too_long, **own)
    if nat.family == "levenshtein":
        return LevenshteinObjective(model, label_smoothing=common["label_smoothing"], **own)
    if nat.family == "insertion":
        return InsertionObjective(model, temperature=nat.insertion_temperature, **own)
    common = {**common, "length_weight": nat.length_weight, "deep_supervision": nat.deep_supervision}
    if nat.family == "cmlm":
        return MaskedObjective(model, correction=nat.correction, **common)
    if nat.family == "inat":
        return RefinedObjective(model, passes=nat.passes, denoising=nat.denoising, **common)
    if nat.family == "nat_crf":
        return CRFObjective(model, num_candidates=nat.crf_candidates, crf_weight=nat.crf_weight, **common)
    return PositionsObjective(model, glancing=nat.glancing, distance=nat.distance, **common)


def _source_lessons(workspace: Workspace, job: Job, student: Student, model: Any) -> Any:
    """Those inside the encoder, of a student whose decoder has positions of its own; None without."""
    from kdmt.objectives.own_positions import SourceLessons

    if student.hidden_kd is None and student.attention_kd is None:
        return None
    teachers = _load_teachers(workspace, job, student, model)
    lessons = _lessons(student, model, teachers)
    return SourceLessons(teachers[0], lessons, precision=student.teacher_precision)


def _self_supervised(student: Student, model: Any) -> Any:
    from kdmt.objectives.masked_language import MaskedLanguageLesson

    return student.self_supervised and MaskedLanguageLesson(student.self_supervised, student=model)


def _on_policy(student: Student) -> Any:
    """How a student comes by its own samples; None where it is not taught on them."""
    from kdmt.decode.engines.pytorch import sample_batch
    from kdmt.objectives.distillation import OnPolicy
    from kdmt.types import Sampling

    settings = student.on_policy
    if settings is None:
        return None
    sampling = Sampling(temperature=settings.temperature, top_k=settings.top_k, top_p=settings.top_p)

    def generate(model: Any, src_tokens_BS: Any) -> list[tuple[int, ...]]:
        found = sample_batch(
            [model], src_tokens_BS, sampling=sampling, max_len_a=settings.max_len_a, max_len_b=settings.max_len_b
        )
        return [hypothesis.tokens for hypothesis in found]

    return OnPolicy(settings.rate, generate)


def _lessons(student: Student, model: Any, teachers: Sequence[Any]) -> list[Any]:
    """Those inside the network, from the first teacher."""
    from kdmt.objectives.distillation import AttentionLesson, HiddenLesson

    lessons: list[Any] = []
    if student.hidden_kd is not None:
        lessons.append(HiddenLesson(student.hidden_kd, student=model, teacher=teachers[0]))
    if student.attention_kd is not None:
        lessons.append(AttentionLesson(student.attention_kd, student=model, teacher=teachers[0]))
    return lessons


def _online_objective(job: Job, student: Student, model: Any) -> Any:
    import torch

    from kdmt.models.architecture import architecture
    from kdmt.models.build import build_transformer
    from kdmt.objectives.distillation import WordLesson
    from kdmt.objectives.online import EmaTeacherObjective, TogetherObjective

    online, smoothing = student.online, job.train.label_smoothing
    assert online is not None
    assert student.word_kd is not None
    word = WordLesson(student.word_kd, label_smoothing=smoothing)
    if online.kind == "ema":
        lessons = _lessons(student, model, [model])
        return EmaTeacherObjective(
            model,
            label_smoothing=smoothing,
            decay=online.decay,
            word=word,
            lessons=lessons,
            on_policy=_on_policy(student),
            self_supervised=_self_supervised(student, model),
        )
    mutual = online.kind == "mutual"
    chosen = online.model or student.model
    others = []
    for number in range(1, 1 + (online.peers if mutual else 1)):
        torch.manual_seed(job.seed + 1000 * number)
        config = architecture(chosen.arch, chosen.overrides())
        others.append(
            build_transformer(config, src_vocab_size=model.src_vocab_size, tgt_vocab_size=model.tgt_vocab_size)
        )
    lessons = _lessons(student, model, others)
    return TogetherObjective(
        model,
        label_smoothing=smoothing,
        others=others,
        mutual=mutual,
        word=word,
        lessons=lessons,
        self_supervised=_self_supervised(student, model),
    )


def _load_teachers(workspace: Workspace, job: Job, student: Student, model: Any) -> list[Any]:
    """Frozen models that run beside the student.

    Raises:
        UserError: one has another vocabulary, or reads less than the student trains on; or the first one, which is
            looked into, lacks what is compared.
    """
    from kdmt.corpus.codec import check_vocabulary
    from kdmt.models.checkpoint import load_model
    from kdmt.models.checkpoint_folder import resolve_checkpoint

    given = student.word_kd.teachers if student.word_kd is not None else []
    teachers = []
    for path in given or [str(workspace.teacher / workspace.config.distill.checkpoint)]:
        folder = resolve_checkpoint(Path(path))
        check_vocabulary(folder, workspace.prepare, workspace.direction)
        teachers.append(load_model(folder))
        check_positions(job.path, student, model.config, teachers[-1].config)
    check_inside(job.path, student, model.config, teachers[0].config)
    return teachers
