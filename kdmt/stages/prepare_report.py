"""The data report of the prepare stage: gathers what the stage has counted, and measures the prepared text."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from kdmt.config import ParallelText, Prepare, Provenance
from kdmt.corpus.clean import CleaningReport, CorpusCounts
from kdmt.corpus.data_report.histogram import histogram_of_ratios, histogram_of_sizes
from kdmt.corpus.data_report.measurements import (
    PairSample,
    SampledText,
    TokenStatistics,
    count_tokens,
    find_languages,
    measure_sample,
    sample_pairs,
    vocabulary_use,
)
from kdmt.corpus.data_report.page import (
    DataReport,
    ReportedRules,
    ReportedSide,
    ReportedSplit,
    ReportedText,
    render_page,
)
from kdmt.corpus.data_report.patterns import frequent_patterns
from kdmt.corpus.given_text import sources_of, texts_by_path
from kdmt.corpus.prepared import PreparedCorpus
from kdmt.corpus.rules.language import build_language_rule
from kdmt.corpus.vocabulary import Dictionary
from kdmt.corpus.vocabulary_size import explain_suggestion
from kdmt.files import write_text

PAGE = "report.html"


@dataclass(frozen=True)
class Collected:
    """What the stage has counted.

    Attributes:
        title: title of the page.
        hashes: name of each file -> its SHA-256.
        cleaned: counts of the training corpora.
        monolingual: counts of the monolingual corpora by their setting.
        held_out: split -> counts of `check_held_out`.
        warnings: warnings of the stage.
        provenance: licences of data sets.
    """

    title: str
    hashes: Mapping[str, str]
    cleaned: CleaningReport
    monolingual: Mapping[str, CleaningReport]
    held_out: Mapping[str, Mapping[str, Any]]
    warnings: Sequence[str]
    provenance: Provenance


def write_report(corpus: PreparedCorpus, settings: Prepare, collected: Collected) -> None:
    """Write `report.html` to the folder of the stage."""
    write_text(corpus.folder / PAGE, render_page(_gather(corpus, settings, collected)))


def _gather(corpus: PreparedCorpus, settings: Prepare, collected: Collected) -> DataReport:
    cleaned = named_corpora(collected.cleaned, "train", collected.provenance)
    monolingual = [named_corpora(report, name, collected.provenance) for name, report in collected.monolingual.items()]

    def languages(sampled: SampledText) -> list[dict[str, int]]:
        return _languages(settings, corpus.direction.sides, (sampled.source, sampled.target))

    whole = replace(collected, cleaned=cleaned)
    report = gather_measured(corpus, settings, whole, list(collected.held_out), monolingual, languages)
    return replace(report, texts=list(_texts(settings, collected)))


def gather_measured(
    corpus: PreparedCorpus,
    settings: Prepare,
    collected: Collected,
    splits: Sequence[str],
    monolingual: Sequence[CleaningReport] = (),
    languages: Callable[[SampledText], list[dict[str, int]]] = lambda _: [{}, {}],
) -> DataReport:
    """Return the report without the texts of the settings.

    Args:
        splits: held-out sets in the data-bin.
        monolingual: counts of the monolingual corpora, with the names that are shown.
        languages: function from a sample of the training text to the languages that are found on both sides.
    """
    src, tgt = corpus.direction.sides
    cleaned = collected.cleaned
    sampled = sample_pairs(corpus.text("train", src), corpus.text("train", tgt), cleaned.pairs_out)
    sample = measure_sample(sampled, (corpus.prefix("train", src), corpus.prefix("train", tgt)))
    dictionaries = [Dictionary.load(corpus.dictionary(lang)) for lang in (src, tgt)]
    counted = [
        count_tokens(corpus.prefix("train", lang), len(dictionary))
        for lang, dictionary in zip((src, tgt), dictionaries, strict=True)
    ]
    found = languages(sampled)
    sides = [
        replace(_side(lang, counts, dictionary, sample, number, spaced=corpus.spaced[number]), languages=found[number])
        for number, (lang, counts, dictionary) in enumerate(zip((src, tgt), counted, dictionaries, strict=True))
    ]
    if settings.vocabulary.joined:
        use = vocabulary_use(dictionaries[0], counted[0].symbol_counts_V + counted[1].symbol_counts_V)
        joined = [("symbols of the joined vocabulary that occur", f"{use.used:,} of {use.symbols:,}")]
    else:
        joined = []
    reports = [cleaned, *monolingual]
    return DataReport(
        title=collected.title,
        summary=[*_summary(cleaned), *joined],
        warnings=collected.warnings,
        texts=[],
        rules=[_rules(each) for report in reports for each in report.corpora],
        patterns=frequent_patterns(each.patterns for report in reports for each in report.corpora),
        sides=sides,
        splits=list(_splits(corpus, splits, counted)),
        ratios=histogram_of_ratios(sample.ratios),
        sampled_pairs=len(sample.tokens_N2),
        shared={kind: shared_text(cleaned, counts) for kind, counts in cleaned.shared.items()},
        held_out=_largest_first(found for each in cleaned.corpora for found in _held_out(each)),
        held_out_shared=_largest_first(
            (split, other, count)
            for split, values in collected.held_out.items()
            for other, count in values.get("shared", {}).items()
        ),
        suggestion=explain_suggestion(cleaned.pairs_without_copies) + "." if settings.tokenizer.is_learnt else "",
    )


def named_corpora(report: CleaningReport, section: str, provenance: Provenance) -> CleaningReport:
    """Return a report in which the corpora that the settings name as data sets have these names, not their URLs."""
    corpora = list(report.corpora)
    for number, counts in enumerate(corpora):
        path = f"{section}.{number}"
        if dataset := provenance.datasets.get(f"prepare.{path}"):
            corpora[number] = replace(counts, name=f"{path} ({dataset.name})")
    return replace(report, corpora=tuple(corpora))


def _summary(cleaned: CleaningReport) -> list[tuple[str, str]]:
    dropped = sum(cleaned.dropped.values())
    share = f" ({100 * dropped / cleaned.pairs_in:.1f}%)" if cleaned.pairs_in else ""
    return [
        ("pairs read", f"{cleaned.pairs_in:,}"),
        ("pairs dropped", f"{dropped:,}{share}"),
        ("pairs for training, with copies", f"{cleaned.pairs_out:,}"),
        ("typical ratio of target to source characters", f"{cleaned.typical_ratio:.3f}"),
    ]


def _texts(settings: Prepare, collected: Collected) -> Iterator[ReportedText]:
    by_path = texts_by_path(settings)
    counts: dict[str, CorpusCounts] = {
        f"prepare.train.{number}": each for number, each in enumerate(collected.cleaned.corpora)
    }
    for name, report in collected.monolingual.items():
        counts |= {f"prepare.{name}.{number}": each for number, each in enumerate(report.corpora)}
    for path, text in by_path.items():
        sources = sources_of(text) if isinstance(text, ParallelText) else [text]
        dataset = collected.provenance.datasets.get(path)
        own = counts.get(path)
        lines = 0 if own is not None else collected.held_out[path.split(".", 2)[-1]]["lines"]
        yield ReportedText(
            path=path.removeprefix("prepare.") + ("" if dataset is None else f" ({dataset.name})"),
            files=tuple(source.name for source in sources),
            sha256=tuple(collected.hashes.get(source.name, "") for source in sources),
            licence=None if dataset is None else dataset.licence,
            pairs=lines if own is None else own.pairs_in,
            kept=lines if own is None else own.pairs_kept,
            used=lines if own is None else own.pairs_out,
            tag=None if own is None else own.tag,
        )


def _languages(
    settings: Prepare, codes: tuple[str, str], samples: tuple[Sequence[str], Sequence[str]]
) -> list[dict[str, int]]:
    """Return the languages that the identifier of the language rule finds on both sides; none without the rule."""
    cleans = [settings.clean_of(corpus) for corpus in settings.train]
    chosen = (clean.rules.language for clean in cleans if clean != "none" and clean.rules is not None)
    language = next((each for each in chosen if each is not None), None)
    rule = None if language is None else build_language_rule(language, codes)
    if rule is None or rule.identifier is None:
        return [{}, {}]
    return [find_languages(lines, rule) for lines in samples]


def _rules(counts: CorpusCounts) -> ReportedRules:
    return ReportedRules(counts.name, counts.pairs_in, counts.dropped, counts.lines_changed, counts.examples)


def _side(
    lang: str, counts: TokenStatistics, dictionary: Dictionary, sample: PairSample, number: int, *, spaced: bool
) -> ReportedSide:
    return ReportedSide(
        lang=lang,
        tokens=counts.tokens,
        unknown=counts.unknown,
        mean_size=counts.mean_size,
        vocabulary=vocabulary_use(dictionary, counts.symbol_counts_V),
        tokens_per_word=sample.tokens_per_word(number) if spaced else None,
        characters_per_token=sample.characters_per_token(number),
        sizes=histogram_of_sizes(counts.size_counts),
    )


def _splits(
    corpus: PreparedCorpus, names: Sequence[str], training: Sequence[TokenStatistics]
) -> Iterator[ReportedSplit]:
    for name in names:
        for lang, trained in zip(corpus.direction.sides, training, strict=True):
            found = count_tokens(corpus.prefix(name, lang), len(trained.symbol_counts_V))
            unseen = int(found.symbol_counts_V[trained.symbol_counts_V == 0].sum())
            yield ReportedSplit(name, lang, found.sentences, found.tokens, found.unknown, unseen)


def shared_text(cleaned: CleaningReport, shared: Sequence[Sequence[int]]) -> list[tuple[str, str, int]]:
    """Return (corpus, corpus with the first occurrence, number of pairs), the largest numbers first."""
    names = [each.name for each in cleaned.corpora]
    return _largest_first(
        (own, earlier, count)
        for own, counts in zip(names, shared, strict=True)
        for earlier, count in zip(names, counts, strict=True)
    )


def _held_out(counts: CorpusCounts) -> Iterator[tuple[str, str, int]]:
    """Yield the sides of held-out sets with whole sentences in a corpus, and the lines that share n-grams with it."""
    for side, count in counts.held_out_matches.items():
        yield counts.name, side, count
    for side, lines in (counts.held_out_overlaps or {}).items():
        for line, count in lines.items():
            yield counts.name, f"{side}, n-grams of line {line}", count


def _largest_first(lines: Iterator[tuple[str, str, int]]) -> list[tuple[str, str, int]]:
    return sorted((line for line in lines if line[2]), key=lambda line: (-line[2], line[:2]))
