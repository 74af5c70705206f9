"""Checks of the models of a pipeline, before the first stage runs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from kdmt.config import LayerMap, Model, Pipeline, Student, Train, setting_path
from kdmt.errors import UserError
from kdmt.families import FAMILIES
from kdmt.models.architecture import TransformerConfig, architecture
from kdmt.objectives.layer_maps import layer_pairs

# settings of `nat` on which the parameters of a model depend; with learned positions `upsample` is another one
NAT_PARAMETERS = ("family", "layout", "source_copy", "link_heads", "crf_rank", "dslp")
_LAYER_FIELDS = ("embed_dim", "ffn_embed_dim", "attention_heads", "normalize_before")
_EMBEDDING_FIELDS = (
    "encoder_embed_dim",
    "decoder_embed_dim",
    "share_all_embeddings",
    "share_decoder_input_output_embed",
)


def check_architectures(config: Pipeline) -> None:
    """Check that each model is consistent with itself, the vocabulary, and the teacher whose layers it takes.

    Raises:
        UserError: if one is not. The message has the YAML path.
    """
    teacher = _architecture(config, "teacher", config.teacher.model, config.teacher.train)
    for path, training in config.teacher_trainings():
        _check_guided(path, training.train, _architecture(config, path, training.model, training.train))
    for path, student in config.trainings():
        own = _architecture(config, path, student.model, student.train)
        _check_guided(path, student.train, own)
        _check_nat(config, path, student, own, teacher)
        for side in ("encoder", "decoder"):
            chosen = getattr(student, f"{side}_layers_from_teacher")
            if chosen is not None:
                setting = f"{path}.{side}_layers_from_teacher"
                _check_layers(setting, chosen, getattr(own, f"{side}_layers"), getattr(teacher, f"{side}_layers"))
                _check_same(setting, own, teacher, [f"{side}_{field}" for field in _LAYER_FIELDS])
        if not (student.word_kd is not None and student.word_kd.teachers):  # others are checked when loaded
            shape = _teacher_of(config, path, student, own, teacher)
            cached = learns_from_cache(student) and config.teacher_fills_caches  # other teachers: when they run
            if learns_from_running(student) or cached:
                check_positions(path, student, own, shape)
            check_inside(path, student, own, shape)
        if student.decoder_layers_from_teacher is not None:
            setting = f"{path}.decoder_layers_from_teacher"
            _check_same(setting, own, teacher, ["encoder_embed_dim", "decoder"])
            if own.tied_decoder_layers and len(set(student.decoder_layers_from_teacher)) > 1:
                raise UserError(
                    f"{setting}: the student's layers are tied: all are taken from one layer of the teacher"
                )
        if student.embeddings_from_teacher:
            _check_same(f"{path}.embeddings_from_teacher", own, teacher, _EMBEDDING_FIELDS)
    for name in config.students:
        _check_stages(config.trainings_of(name))


def untrained_fine_tuning(config: Pipeline) -> list[str]:
    """Return a warning for each training by a loss for fine-tuning that begins from weights that were not trained."""
    warnings = []
    for name in config.students:
        path, first = config.trainings_of(name)[0]  # later stages begin from the weights of the one before
        if first.train.init_from is not None or (first.nat is None and first.decoder_layers_from_teacher is not None):
            continue
        if first.nat is not None and first.nat.loss != "likelihood":
            setting = f"nat.loss: {first.nat.loss}"
        elif first.convex is not None:
            setting = "convex"
        else:
            continue
        warnings.append(
            f"'{path}': '{setting}' has almost no gradient for an untrained model: train it by the likelihood first, "
            "in a stage before or by 'init_from'"
        )
    return warnings


def _check_stages(trainings: Sequence[tuple[str, Student]]) -> None:
    """Check that the models of all stages of a student have the same parameters."""
    _, first = trainings[0]
    learned = architecture(first.model.arch, first.model.overrides()).decoder_learned_pos
    for path, stage in trainings[1:]:
        if (first.nat is None) != (stage.nat is None):
            kinds = ("an autoregressive", "a non-autoregressive")
            one, other = kinds if first.nat is None else reversed(kinds)
            raise UserError(
                f"{path}.nat: the first stage trains {one} model, this one {other} model; all stages have the same one"
            )
        for name in (*NAT_PARAMETERS, *(("upsample",) if learned else ())):
            before, here = getattr(first.nat, name, None), getattr(stage.nat, name, None)
            if before != here:
                raise UserError(
                    f"{path}.nat.{name}: {here!r} has other parameters than {before!r} in the first stage: all stages "
                    "have the same model"
                )


def _check_nat(
    config: Pipeline, path: str, student: Student, own: TransformerConfig, teacher: TransformerConfig
) -> None:
    """Check that the settings of a non-autoregressive student fit its shape."""
    if student.nat is None:
        return
    if student.nat.deep_supervision and own.decoder_layers == 1:
        raise UserError(f"{path}.nat.deep_supervision: a decoder of one layer has no lower ones")
    family, model = student.nat.family, setting_path(path, "model")
    if own.layout == "marian":
        raise UserError(f"{model}.layout: Marian has no non-autoregressive decoders ('nat.family: {family}')")
    if own.decoder == "ssru":
        raise UserError(
            f"{model}.decoder: an SSRU reads positions in their order, and the decoder of 'nat.family: {family}' "
            "computes all of them at once"
        )
    copies = FAMILIES[family].copies_source and student.nat.decoder_input == "source"
    if copies and own.encoder_embed_dim != own.decoder_embed_dim:
        raise UserError(
            f"{model}: the decoder of 'nat.family: {family}' starts from the source's embeddings: "
            f"encoder_embed_dim ({own.encoder_embed_dim}) and decoder_embed_dim ({own.decoder_embed_dim}) differ"
        )
    if not FAMILIES[family].has_target_positions:
        if student.embeddings_from_teacher and own.decoder_learned_pos:
            raise UserError(
                f"{path}.embeddings_from_teacher: the decoder of 'nat.family: {family}' has other "
                f"positions than the teacher's, which cannot be taken ('decoder_learned_pos: true')"
            )
        return
    nat, limit = config.score.nat, own.max_target_positions
    if nat.num_lengths(family) > limit - 1:  # the shortest sentence is a word and </s>
        setting = "length_beam" if nat.num_lengths(family) == nat.length_beam else "cmlm_length_beam"
        raise UserError(
            f"score.nat.{setting} ({nat.num_lengths(family)}) is more than the lengths that "
            f"{model}.max_target_positions ({limit}) leaves"
        )
    if nat.rescore and limit > teacher.max_target_positions:
        raise UserError(
            f"score.nat.rescore: {model}.max_target_positions ({limit}) is more than "
            f"teacher.model.max_target_positions ({teacher.max_target_positions}), which would have to read it"
        )


def _check_guided(path: str, train: Train, own: TransformerConfig) -> None:
    """Check that the head of guided alignment exists."""
    settings = train.guided_alignment
    if settings is None:
        return
    for name, number, count in (
        ("layer", settings.layer or 0, own.decoder_layers),
        ("head", settings.head, own.decoder_attention_heads),
    ):
        if number >= count:
            setting = setting_path(path, f"train.guided_alignment.{name}")
            raise UserError(f"{setting}: the decoder has no {name} {number}, only 0 to {count - 1}")


def _teacher_of(
    config: Pipeline, path: str, student: Student, own: TransformerConfig, teacher: TransformerConfig
) -> TransformerConfig:
    """Return the shape of the teacher that runs with a student."""
    if student.online is None:
        return teacher
    if student.online.model is None:
        return own
    return _architecture(config, f"{path}.online", student.online.model, student.train)


def learns_from_running(student: Student) -> bool:
    """Return whether trained teachers run with the student."""
    kd = student.word_kd
    return student.online is None and bool((kd and kd.source == "teacher") or student.hidden_kd or student.attention_kd)


def learns_from_cache(student: Student) -> bool:
    return student.word_kd is not None and student.word_kd.source == "cache"


def check_inside(path: str, student: Student, own: TransformerConfig, teacher: TransformerConfig) -> None:
    """Check that the layers and heads to be compared exist; messages have the student's YAML path."""
    maps: list[tuple[str, LayerMap, str]] = []
    if (hidden := student.hidden_kd) is not None:
        maps += [("hidden_kd.encoder", hidden.encoder, "encoder"), ("hidden_kd.decoder", hidden.decoder, "decoder")]
    if (attention := student.attention_kd) is not None:
        found: list[tuple[str, LayerMap, str]] = [
            ("attention_kd.encoder_self", attention.encoder_self, "encoder"),
            ("attention_kd.decoder_self", attention.decoder_self, "decoder"),
            ("attention_kd.cross", attention.cross, "decoder"),
        ]
        sides = dict.fromkeys(side for _, layers, side in found if layers != "none")
        _check_heads(f"{path}.attention_kd.heads", attention.heads, sides, own, teacher)
        for whose, shape in (("student", own), ("teacher", teacher)):
            if attention.decoder_self != "none" and shape.decoder == "ssru":
                raise UserError(
                    f"{path}.attention_kd.decoder_self: the {whose}'s decoder has SSRUs and no self-attention: set it "
                    "to 'none'"
                )
        maps += found
    for setting, layers, side in maps:
        try:
            layer_pairs(layers, getattr(own, f"{side}_layers"), getattr(teacher, f"{side}_layers"))
        except UserError as error:
            raise UserError(f"{path}.{setting}: {error}") from None


def check_positions(path: str, student: Student, own: TransformerConfig, teacher: TransformerConfig) -> None:
    """Check that the teacher can read the sentences that the student trains on or generates.

    Messages have the student's YAML path.
    """
    if student.on_policy is not None and own.max_target_positions > teacher.max_target_positions:
        raise UserError(
            f"{path}.on_policy: the student's max_target_positions ({own.max_target_positions}) is more than the "
            f"teacher's ({teacher.max_target_positions}), which would have to read its samples"
        )
    for side, limit in zip(("source", "target"), token_limits(student.train, own), strict=True):
        positions = getattr(teacher, f"max_{side}_positions")
        if limit > positions:
            raise UserError(
                f"{setting_path(path, f'train.max_{side}_tokens')} ({_limit_text(student.train, side, limit)}) is more "
                f"than the teacher's max_{side}_positions ({positions})"
            )


def token_limits(train: Train, model: TransformerConfig) -> tuple[int, int]:
    """Return the maximum number of tokens of a source and of a target that a model is trained on."""
    return (
        min(train.max_source_tokens or model.max_source_positions, model.max_source_positions),
        min(train.max_target_tokens or model.max_target_positions, model.max_target_positions),
    )


def _limit_text(train: Train, side: str, limit: int) -> str:
    return str(limit) if getattr(train, f"max_{side}_tokens") else f"0: no limit below the model's {limit}"


def _check_heads(
    setting: str, heads: list[int] | None, sides: Iterable[str], own: TransformerConfig, teacher: TransformerConfig
) -> None:
    if heads is None:
        return
    for side in sides:
        mine, theirs = (getattr(each, f"{side}_attention_heads") for each in (own, teacher))
        if len(heads) != mine:
            raise UserError(f"{setting}: {len(heads)} heads are chosen, the student's {side} has {mine}")
        for head in heads:
            if head >= theirs:
                raise UserError(f"{setting}: the teacher's {side} has no head {head}, only 0 to {theirs - 1}")


def _architecture(config: Pipeline, path: str, model: Model, train: Train) -> TransformerConfig:
    try:
        found = architecture(model.arch, model.overrides())
    except UserError as error:
        raise UserError(setting_path(path, str(error))) from None
    if found.share_all_embeddings and not config.prepare.vocabulary.joined:
        raise UserError(f"{setting_path(path, 'model')}.share_all_embeddings needs 'prepare.vocabulary.joined: true'")
    for side in ("source", "target"):
        positions, tokens = getattr(found, f"max_{side}_positions"), getattr(train, f"max_{side}_tokens")
        if tokens > positions:
            raise UserError(
                f"{setting_path(path, f'train.max_{side}_tokens')} ({tokens}) is more than "
                f"{setting_path(path, 'model')}.max_{side}_positions ({positions})"
            )
    return found


def _check_same(setting: str, own: TransformerConfig, teacher: TransformerConfig, fields: Sequence[str]) -> None:
    for field in fields:
        mine, theirs = getattr(own, field), getattr(teacher, field)
        if mine != theirs:
            raise UserError(f"{setting}: {field} is {mine!r} in the student and {theirs!r} in the teacher")


def _check_layers(setting: str, chosen: list[int], num_own: int, num_teacher: int) -> None:
    if len(chosen) != num_own:
        raise UserError(f"{setting}: {len(chosen)} layers are chosen, the student has {num_own}")
    for layer in chosen:
        if not 0 <= layer < num_teacher:
            raise UserError(f"{setting}: the teacher has no layer {layer}, only 0 to {num_teacher - 1}")
