# make demo | test | lint | bench | proto: each sets up what it needs, from nothing but Python 3.11.
PYTHON ?= python3.11
VENV ?= .venv
BIN := $(VENV)/bin
DEMO ?= demo

.PHONY: help demo test test-slow lint bench proto clean

help:
	@echo "make demo    simulated FOVs -> cells -> shards; one to two minutes after the set-up"
	@echo "make test    the tests that take seconds each; make test-slow: those that take minutes"
	@echo "make lint    ruff check and format"
	@echo "make bench   speed and memory of the stages on this machine"
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

demo: $(VENV)/run.stamp
	$(BIN)/python -m beam_jobs.synthesize --out_dir=$(DEMO)/fovs --num_fovs=57 --height_px=1024 --width_px=1024 \
	    --pixel_size_um=0.16 --num_workers=2
	$(BIN)/python -m beam_jobs.convert --images=$(DEMO)/fovs/images --labels=$(DEMO)/fovs/labels.csv \
	    --out_dir=$(DEMO) --pixel_size_um=0.16 --splits=train=1,validation=1,test=1 --cells_per_shard=256 --num_workers=2
	$(BIN)/python -m beam_jobs.inspect $(DEMO)/dataset --show=57 --out=$(DEMO)/cells.png
	@echo "look at   $(DEMO)/dataset/report.html and $(DEMO)/cells.png"

test: $(VENV)/test.stamp
	$(BIN)/python -m pytest -m "not slow" -n 2 --dist loadfile

test-slow: $(VENV)/test.stamp
	$(BIN)/python -m pytest -m slow

lint: $(VENV)/test.stamp
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

bench: $(VENV)/test.stamp
	$(BIN)/python -m beam_jobs.benchmark

proto: $(VENV)/test.stamp
	$(BIN)/python -m grpc_tools.protoc -Iproto --python_out=proto proto/cells.proto proto/example.proto

clean:
	rm -rf $(VENV) $(DEMO)
