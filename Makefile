# make demo | test | lint | bench | proto: each sets up what it needs, from nothing but Python 3.11.
PYTHON ?= python3.11
VENV ?= .venv
BIN := $(VENV)/bin
DEMO ?= demo
KAGGLE ?= kaggle-out
REPRODUCE ?= reproduce
SKEW ?= skew

.PHONY: help demo reproduce reliability kaggle test test-slow test-learning lint bench bench-segment skew proto clean

help:
	@echo "make demo    simulated FOVs -> cells -> shards -> a trained model; about five minutes after the set-up"
	@echo "make reproduce  the demo twice, from scratch, and a comparison of everything that should be equal"
	@echo "make kaggle  unlabelled FOVs -> submission.csv: IMAGES=folder RUN=folder [SAMPLE=csv] [TRUTH=csv] [CONVERT_FLAGS=...]"
	@echo "make reliability  RELIABILITY.md from nothing, hours: TABLE=csv of FOVs with ID, Label, num_cells"
	@echo "make test    the tests that take seconds each; make test-slow: minutes; make test-learning: tens of minutes"
	@echo "make lint    ruff check and format"
	@echo "make bench   a short round of how fast this machine is"
	@echo "make skew    remedies for rare classes, compared on one skewed simulated set: an hour"
	@echo "make bench-segment  how good and how fast the segmenters are"
	@echo "make proto   the generated protocol buffer modules"

# A stamp a requirements file: set up once, again when the file changes.
$(VENV)/run.stamp: requirements.txt setup.py
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q --upgrade pip
	$(BIN)/python -m pip install -q -r requirements.txt
	$(BIN)/python -m pip install -q --no-deps -e .
	@touch $@

$(VENV)/test.stamp: requirements-test.txt $(VENV)/run.stamp
	$(BIN)/python -m pip install -q -r requirements-test.txt
	@touch $@

# The second `shard` chooses again from the same cells: pictures small enough to train on two CPU cores in minutes.
demo: $(VENV)/run.stamp
	$(BIN)/python -m beam_jobs.synthesize --out_dir=$(DEMO)/fovs --num_fovs=96 --labels=12,16,6,7,8,14,5,4,2,3,0,13 \
	    --height_px=768 --width_px=768 --pixel_size_um=0.16 --num_workers=2
	$(BIN)/python -m beam_jobs.convert --images=$(DEMO)/fovs/images --labels=$(DEMO)/fovs/labels.csv \
	    --out_dir=$(DEMO) --pixel_size_um=0.16 --splits=train=6,validation=1,test=1 --cells_per_shard=256 --num_workers=2
	$(BIN)/python -m beam_jobs.inspect $(DEMO)/dataset --show=48 --out=$(DEMO)/cells.png
	$(BIN)/python -m beam_jobs.shard --cells_dir=$(DEMO)/cells --data_dir=$(DEMO)/dataset-128 --image_size_px=128 \
	    --splits=train=6,validation=1,test=1 --cells_per_shard=256 --num_workers=2
	$(BIN)/python -m trainer.train --data_dir=$(DEMO)/dataset-128 --runs_dir=$(DEMO)/runs --name=first \
	    --model=resnet10w16 --batch_size=32 --epochs=8 --optimizer=adamw --weight_decay=0.02 --learning_rate=3e-3 \
	    --schedule=cosine --warmup_epochs=1
	$(BIN)/python -m trainer.evaluate --run_dir=$(DEMO)/runs/first --data_dir=$(DEMO)/dataset-128 --split=test
	@echo "look at   $(DEMO)/dataset/report.html, $(DEMO)/cells.png and $(DEMO)/runs/first/report/report.html"

# Both times under one name, so that the command lines in manifest and config are equal too. The variable: TensorFlow may
# otherwise add up in the order in which its threads finish.
reproduce: export TF_DETERMINISTIC_OPS = 1
reproduce: $(VENV)/run.stamp
	rm -rf $(REPRODUCE)
	$(MAKE) demo DEMO=$(REPRODUCE)/demo
	mv $(REPRODUCE)/demo $(REPRODUCE)/first
	$(MAKE) demo DEMO=$(REPRODUCE)/demo
	mv $(REPRODUCE)/demo $(REPRODUCE)/second
	$(BIN)/python tests/faults/compare_trees.py $(REPRODUCE)/first $(REPRODUCE)/second

# Each of these appends its rows to the file of the variable; those that are wanted anew may be run alone.
reliability: export RELIABILITY_OUT = $(CURDIR)/faults.jsonl
reliability: export FAULT_KILLS = 30
reliability: export FUZZ_SECONDS = 20
reliability: $(VENV)/test.stamp
	$(if $(TABLE),,$(error TABLE=csv is missing: the FOVs of the full-size run, with ID, Label and num_cells))
	rm -f $(RELIABILITY_OUT)
	$(BIN)/python -m pytest tests/faults tests/test_hostile_input.py tests/test_fuzzing.py tests/test_object_store.py \
	    tests/test_object_store_chain.py tests/test_object_store_tools.py tests/test_pipeline_graph.py
	$(BIN)/python tests/faults/full_size.py --table=$(TABLE) --out_dir=full --memory_png=docs/full_size_memory.png
	$(MAKE) reproduce
	$(BIN)/python tests/faults/reliability.py $(RELIABILITY_OUT) > RELIABILITY.md

# IMAGES: folder of FOVs; RUN: folder of a run; SAMPLE, TRUTH: Kaggle's lists of rows, if there are any; CONVERT_FLAGS: how
# the run's data set was made, as "--image_size_px=128".
kaggle: $(VENV)/run.stamp
	$(if $(IMAGES),,$(error IMAGES=folder is missing: the FOVs to predict))
	$(if $(RUN),,$(error RUN=folder is missing: the run that predicts))
	@test -f $(RUN)/config.json || { echo "$(RUN) is no run: it has no config.json"; exit 1; }
	$(BIN)/python -m beam_jobs.convert --images=$(IMAGES) --out_dir=$(KAGGLE) --num_workers=2 $(CONVERT_FLAGS)
	$(BIN)/python -m trainer.predict --run_dir=$(RUN) --data_dir=$(KAGGLE)/dataset --split=predict \
	    --out=$(KAGGLE)/predictions.parquet
	$(BIN)/python -m trainer.submit --predictions=$(KAGGLE)/predictions.parquet --data_dir=$(KAGGLE)/dataset \
	    --out=$(KAGGLE)/submission.csv $(if $(SAMPLE),--sample_submission=$(SAMPLE))
	$(if $(TRUTH),$(BIN)/python -m trainer.score --submission=$(KAGGLE)/submission.csv --truth=$(TRUTH))

test: $(VENV)/test.stamp
	$(BIN)/python -m pytest -m "not slow" -n 2 --dist loadfile

test-slow: $(VENV)/test.stamp
	$(BIN)/python -m pytest -m "slow and not learning" -n 2 --dist loadfile

test-learning: $(VENV)/test.stamp
	$(BIN)/python -m pytest -m learning

lint: $(VENV)/test.stamp
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

bench: $(VENV)/test.stamp
	$(BIN)/python -m beam_jobs.benchmark --quick
	$(BIN)/python -m trainer.benchmark --quick

skew: $(VENV)/run.stamp
	PYTHON=$(BIN)/python benchmarks/skew.sh $(SKEW)

bench-segment: $(VENV)/test.stamp
	$(BIN)/python -m beam_jobs.benchmark_segment $(if $(wildcard ../shared/hpa),--shared_dir=../shared)

proto: $(VENV)/test.stamp
	$(BIN)/python -m grpc_tools.protoc -Iproto --python_out=proto proto/cells.proto proto/example.proto

clean:
	rm -rf $(VENV) $(DEMO) $(REPRODUCE) $(SKEW)
