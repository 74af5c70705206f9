"""Distillation: a teacher decodes a corpus, and its translations become training sets.

inputs.py, sources.py                   the text that is translated, each distinct sentence once
teachers.py, chosen_teacher.py          table of teachers; their interface
huggingface_teacher.py                  models of Hugging Face
teacher_engines.py, torch_models.py     models as worker processes load them
exported_teacher.py                     the model in CTranslate2's format
decoding.py, blocks.py                  decoding in blocks, one checksummed file each
candidates.py, failures.py              hypotheses as text; checks for failed hypotheses
target_choices.py, selection.py         table of rules that choose targets; the rules
mbr.py, diversity.py                    minimum Bayes risk; several targets that differ
rerank.py, rerank_tuning.py             linear model over features of hypotheses; its weights
backward.py                             feature of reranking: scores by a model of the opposite direction
similarity.py, ngram_counts.py          similarity of hypotheses; n-grams that texts share
merge.py, training_text.py              the text and the data-bin of a training set
comparison.py                           similarity of distilled text to the references
imported.py                             translations by another system
reverse.py, pair_scores.py              filter by a reverse model; scores of given pairs
quality.py, dropping.py                 filter by an external scorer; removal of pairs
verification.py                         checks of finished training sets
shortlist.py                            lexical shortlist
teacher_forcing.py                      knowledge cache filled from the teacher
"""
