"""Names of the choices in settings: one `Literal` type for each set of names.

Configuration, commands and the library packages share these types, so that each name is defined in one place. Use
`typing.get_args` for the names as values. Names of NAT families are in `kdmt.families`.
"""

from __future__ import annotations

from typing import Literal, get_args

# languages
LanguageScheme = Literal["many_to_many", "english_centric", "one_to_many", "many_to_one"]  # of several directions
# tokens by which a model knows the direction
LanguageTokens = Literal["target_in_source", "both_in_source", "source_and_decoder", "target_and_decoder", "decoder"]

# text
DuplicateKey = Literal["pair", "source", "target", "either"]
UnicodeForm = Literal["NFC", "NFKC", "none"]
SubwordJoiner = Literal["subword_nmt", "sentencepiece", "wordpiece", "letter", "_EOW"]  # of fairseq's --remove-bpe
NormalizationRule = Literal["identity", "nfkc", "nfkc_cf", "nmt_nfkc", "nmt_nfkc_cf"]  # of SentencePiece
RuleList = Literal["default", "crawled"]  # of `prepare.clean.rules`
LengthUnit = Literal["words", "characters"]
SelectionMethod = Literal["ngrams", "clusters"]  # of `kdmt select`
OnMalformed = Literal["drop", "error"]  # for a malformed line: leave it out and count it, or stop
BleuTokenizer = Literal["auto", "13a", "intl", "none", "zh", "ja-mecab", "ko-mecab", "char"]  # sacreBLEU's

# models and number types
Activation = Literal["relu", "gelu", "swish"]
Layout = Literal["fairseq", "marian"]  # of positions, decoder input and output bias of a Transformer
DecoderKind = Literal["self_attention", "ssru"]  # of what reads earlier positions in a decoder
Initialisation = Literal["fairseq", "bert"]  # of the weights of a model
NATLayout = Literal["own", "fairseq"]  # of the sentences of a non-autoregressive model
DecoderInput = Literal["source", "unk"]  # at positions of a non-autoregressive decoder where nothing is known
SourceCopy = Literal["uniform", "soft"]  # of source embeddings to the input of a non-autoregressive decoder
Precision = Literal["float32", "bf16", "bf16_output"]  # of matrix products; bf16_output: of the output projection only
ComputeType = Literal[  # of CTranslate2, for weights and for computation
    "float32", "float16", "bfloat16", "int16", "int8", "int8_float32", "int8_float16", "int8_bfloat16"
]
EngineName = Literal[  # of the score stage: an engine, with the number type of the weights if it has several
    "pytorch",
    "ctranslate2", "ctranslate2:float16", "ctranslate2:bfloat16", "ctranslate2:int16", "ctranslate2:int8",
    "ctranslate2:int8_float32", "ctranslate2:int8_float16", "ctranslate2:int8_bfloat16",
    "marian", "bergamot", "onnx", "onnx:int8"
]  # fmt: skip
# of CTranslate2's computation in a stage; auto: float32 on a CPU, float16 or bfloat16 on a GPU
StageComputeType = Literal["auto", ComputeType]
CacheTeachers = Literal["pipeline", "directions"]  # that fill knowledge caches
CacheNumberType = Literal["float16", "float32"]  # of log-probabilities in the knowledge cache
CheckpointName = Literal["auto", "best", "average_best", "average", "last"]  # of a training run
AverageName = Literal["average_best", "average"]  # of the best and of the last checkpoints
AutoCheckpoint = Literal["auto", "best", "last"]  # that `auto` is: the best by validation, or one of the averages
CHECKPOINT_PREFERENCE: tuple[CheckpointName, ...] = ("average", "best", "last")  # if none is named, the first one found

# training
AlignmentUnit = Literal["words", "tokens"]  # of a file of links
SubwordSide = Literal["both", "source", "target"]
# sides of the training set, and settings of the prepare stage
SelfSupervisedText = Literal["source", "target", "monolingual", "monolingual_target"]
ModifierName = Literal[  # of text, in the order in which they apply
    "noise", "merged", "no_end_punctuation", "typos", "upper_case", "title_case", "placeholders", "tags"
]
VariantModifier = Literal[  # of test sets
    "merged", "no_end_punctuation", "typos", "upper_case", "title_case", "placeholders", "tags"
]
AugmentRecipe = Literal["default"]  # named shares of modifiers
LRSchedule = Literal["inverse_sqrt", "linear", "cosine", "polynomial_decay", "wsd"]
BestMetric = Literal["loss", "bleu", "chrf"]
ScoreMetric = Literal["bleu", "chrf", "chrf++", "ter", "spbleu"]  # of the score stage
OnDivergence = Literal["stop", "skip"]  # for a loss or gradient that is not finite, or a gradient that is too large
Parallelism = Literal["ddp", "fsdp"]
InputFormat = Literal["txt", "html", "jsonl"]  # of `kdmt translate`
TrackerName = Literal["tensorboard", "wandb", "mlflow", "trackio"]

RecipeName = Literal[  # in kdmt/config/recipes.yaml
    "transformer_multi30k",
    "transformer_iwslt_de_en",
    "transformer_wmt_en_de_big",
    "student_production",
    "nat_small",
    "nat_base",
    "ctc_glat",
    "dslp_ctc",
    "cmlm",
    "da_transformer",
]

# distillation losses
DivergenceName = Literal[
    "kl", "reverse_kl", "skewed_kl", "skewed_reverse_kl", "js", "tvd", "cross_entropy", "squared_error"
]
HiddenDistance = Literal["mse", "cosine", "pkd"]
AttentionDistance = Literal["kl", "squared_error"]
AttentionMapping = Literal["given", "learned"]  # between heads and layers of student and teacher
GlancingDistance = Literal["hamming", "levenshtein"]
GlancingDraw = Literal["exact", "bernoulli"]  # of the positions that glancing shows
GlancingRounding = Literal["truncate", "round"]
GlancingDivisor = Literal["words", "predicted"]  # of the loss: all words of the target, or those not shown
GlancingReveal = Literal["state", "word"]  # at a position whose state on the best alignment is a blank
LossAverage = Literal["token", "sentence"]
TokenSelection = Literal["all", "batch", "global"]
KnowledgeSource = Literal["teacher", "cache"]  # of word-level distillation
TeacherWeights = Literal["equal", "perplexity"]  # of several teachers of word-level distillation
OnlineTeacher = Literal["ema", "joint", "mutual"]
DirectionBatches = Literal["mixed", "one_direction"]
AlignedLoss = Literal["likelihood", "nmla", "fuzzy_alignment"]  # of `ctc` and `dag`
OnTooLong = Literal["skip", "upsample"]  # for a target without an alignment to the decoder positions

# distill stage
Int8Scales = Literal["int8", "int8_matrix"]
TranslationEngine = Literal["auto", "ctranslate2", "torch"]
DistillEngine = Literal["auto", "ctranslate2", "ctranslate2_exact", "torch"]
ExecutorName = Literal["processes", "inline", "ray"]
# of an answer of a large language model
AnswerFailure = Literal[
    "no_answer", "refusal", "truncated", "chatter", "several_lines", "quotes", "echoed", "wrong_language"
]
Cleaning = Literal["removed_reasoning", "removed_prefix", "removed_quotes"]  # of such an answer
Failure = Literal["empty", "too_long", "repetition", "unk", "ratio", "copied", "script", AnswerFailure]
AnswerBatch = Literal["sentences", "paragraph"]  # of one request: numbered lines, or the lines of a paragraph
OnFailure = Literal["keep", "reference", "drop"]
KeepOrDrop = Literal["keep", "drop"]
SimilarityName = Literal["sentence_bleu", "chrf"]
# metrics with figures of the agreement of people with differences
AgreementMetric = Literal[
    "bleu",
    "chrf",
    "spbleu101",
    "spbleu200",
    "comet20",
    "comet22",
    "cometkiwi22",
    "cometkiwi23-xl",
    "xcomet-xl",
    "xcomet-xxl",
    "bleurt20",
    "metricx-23-large",
    "metricx-23-qe-large",
]
MbrUtility = Literal["chrf", "bleu"]
MbrWeights = Literal["equal", "count", "probability"]  # of the candidates as references
# of a candidate, for reranking
FeatureName = Literal["score", "log_prob", "length", "ratio", "count", "mbr", "backward", "language_model"]
TuningMetric = Literal["bleu", "chrf"]
DiverseQuality = Literal["utility", "probability"]
DagSearch = Literal["greedy", "lookahead", "viterbi"]

# commands
StageName = Literal["prepare", "back-translate", "teacher", "distill", "knowledge", "student", "score"]
TemplateName = Literal["minimal", "opus", "word-kd", "nat", "multi30k", "toy"]  # of `kdmt new`: files in kdmt/templates


def names(choices: object) -> tuple[str, ...]:
    """Return the names in a `Literal` type, in their order."""
    return get_args(choices)
