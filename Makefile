# Everything runs from here. `make` alone lists what there is.

SPEC ?= build_scripts/specs/smollm2-135m.yaml
REPOSITORY ?= model_repository
VENV := .venv
BIN := $(VENV)/bin
PY := $(BIN)/python
PIP := $(PY) -m pip --disable-pip-version-check --quiet --quiet
# Wheels alone: nothing is compiled, and nothing runs code of a package while it is installed.
INSTALL := $(PIP) install --only-binary :all: --require-hashes
EXPORT_INSTALL := .venv-export/bin/python -m pip --disable-pip-version-check --quiet --quiet install --no-deps \
	--only-binary :all: --require-hashes
UV_VERSION := 0.13.9
TYPED := src/conch client/src/conch_client build_scripts benchmarks load_tests
CODE := src client build_scripts python_backends benchmarks load_tests tests
NEEDS_SETUP = @test -x $(PY) || { echo "not set up yet: make serve" >&2; exit 3; }
PYTEST_ARGS ?=
DOCKER ?= docker
export Q  # handed on through the environment: a question may hold quotes

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help setup setup-dev setup-export lint type imports test unit e2e e2e-swapped properties bench build serve up \
	down status logs plan plan-memory import-config launch ask chat lock clean distclean cost

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z][a-z0-9-]*:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
	@echo
	@echo "  SPEC=$(SPEC)  which model to build and serve"
	@echo "  PYTHON=python3.11  which Python to make the environment with (3.10, 3.11 or 3.12)"

# --- environments -------------------------------------------------------------------------------------------------

setup: $(VENV)/serve.stamp ## make the serving environment (.venv)

setup-dev: $(VENV)/dev.stamp ## the same, with what tests and linters need

$(VENV)/bin/python:
	@python=$$(PYTHON="$(PYTHON)" requirements/find_python.sh) && \
	echo "making $(VENV) with $$python" && "$$python" -m venv --clear $(VENV)

$(VENV)/serve.stamp: requirements/serve.lock pyproject.toml client/pyproject.toml | $(VENV)/bin/python
	@echo "installing requirements/serve.lock (a minute or two, once)"
	@$(INSTALL) -r requirements/serve.lock
	@$(PIP) install --no-deps --no-build-isolation --no-index -e . -e client
	@touch $@

$(VENV)/dev.stamp: requirements/dev.lock load_tests/pyproject.toml $(VENV)/serve.stamp
	@echo "installing requirements/dev.lock"
	@$(INSTALL) -r requirements/dev.lock
	@$(PIP) install --no-deps --no-build-isolation --no-index -e load_tests
	@touch $@

setup-export: .venv-export/export.stamp ## make the environment that exports Hugging Face checkpoints (torch; .venv-export)

# torch's CPU build where pip is set up to find it, else the usual one; requirements/export.lock tells why.
.venv-export/export.stamp: requirements/export.lock requirements/export-torch.lock requirements/export-torch-cpu.lock
	@python=$$(PYTHON="$(PYTHON)" requirements/find_python.sh) && "$$python" -m venv --clear .venv-export
	@echo "installing requirements/export.lock and torch (minutes)"
	@$(EXPORT_INSTALL) -r requirements/export.lock
	@$(EXPORT_INSTALL) -r requirements/export-torch-cpu.lock 2>/dev/null || \
	$(EXPORT_INSTALL) -r requirements/export-torch.lock
	@touch $@

lock: ## resolve the dependencies of pyproject.toml anew, into requirements/*.lock
	@test -x .cache/uv/bin/uv || { $$(requirements/find_python.sh) -m venv .cache/uv && \
	.cache/uv/bin/pip --quiet install uv==$(UV_VERSION); }
	@for name in serve dev; do \
		extras="--extra serve"; test $$name = serve || extras="$$extras --extra load --extra dev"; \
		echo "requirements/$$name.lock"; \
		.cache/uv/bin/uv pip compile pyproject.toml requirements/$$name.in $$extras --quiet --upgrade \
			--universal --python-version 3.10 --fork-strategy fewest --generate-hashes --no-emit-index-url \
			--no-annotate --custom-compile-command "make lock" -o requirements/$$name.lock || exit 1; \
	done
	@echo "requirements/gpu.lock"
	@.cache/uv/bin/uv pip compile requirements/gpu.in --quiet --universal --python-version 3.12 --fork-strategy fewest \
		--generate-hashes --no-emit-index-url --no-annotate --custom-compile-command "make lock" -o requirements/gpu.lock

# --- checks -------------------------------------------------------------------------------------------------------

lint: setup-dev ## ruff
	@$(BIN)/ruff check $(wildcard $(CODE))

type: setup-dev ## mypy --strict
	@$(BIN)/mypy $(wildcard $(TYPED))

imports: setup-dev ## who may import whom
	@$(BIN)/lint-imports --no-logo

unit: setup-dev ## tests without a server
	@$(PY) -m pytest -q -m "not e2e" -n 2 --dist loadfile $(PYTEST_ARGS)

e2e: setup-dev ## tests against a real tritonserver
	@$(PY) -m pytest -q -m e2e $(PYTEST_ARGS)

# The tests of the job and of the request contract, over the backend of compiled engines.
SWAPPED_TESTS := $(addprefix tests/e2e/test_,$(addsuffix .py,swapped_backend served_answers stream_equals_whole batching \
	disconnects fields bad_input guided fuzz client_shapes)) tests/client/test_client_e2e.py

e2e-swapped: setup-dev ## the same over Triton's backend tensorrtllm, with OpenVINO in its place (minutes)
	@CONCH_TEST_SPEC=smollm2-135m-swapped $(PY) -m pytest -q -rs -m e2e $(SWAPPED_TESTS) $(PYTEST_ARGS)

EXAMPLES ?= 10000
properties: setup-dev ## the property tests of texts and stop words with EXAMPLES=10000 cases each (minutes)
	@CONCH_HYPOTHESIS_EXAMPLES=$(EXAMPLES) $(PY) -m pytest -q -n 2 $(PYTEST_ARGS) tests/unit/test_text_decoding.py \
		tests/unit/test_text_stop_words.py tests/adapters/test_stages.py

test: lint type imports ## everything: lint, types, import rules, all tests
	@$(PY) -m pytest -q -m "not e2e" -n 2 --dist loadfile $(PYTEST_ARGS)
	@$(PY) -m pytest -m e2e -n 3 --dist loadfile $(PYTEST_ARGS)

# --- serving ------------------------------------------------------------------------------------------------------

build: setup ## fetch SPEC's model and write it into the model repository; nothing to do when it is there
	@$(PY) build_scripts/build.py --spec "$(SPEC)" --repository "$(REPOSITORY)"

plan: setup ## what a build of SPEC would do: every command, file and setting, and whether it fits the GPUs
	@$(PY) build_scripts/build.py --spec "$(SPEC)" --repository "$(REPOSITORY)" --dry-run

plan-memory: setup ## what a model takes of GPUs: make plan-memory ARGS="--config config.json --gpu H100-80GB"
	@$(PY) build_scripts/plan_memory.py $(ARGS)

import-config: setup ## a spec from settings of TensorRT-LLM, vLLM, TGI or Ollama: make import-config FILE=vllm.yaml
	@test -n "$(FILE)" || { echo 'usage: make import-config FILE=vllm.yaml ARGS="--output my.yaml"' >&2; exit 2; }
	@$(PY) build_scripts/import_config.py "$(FILE)" $(ARGS)

launch: setup ## check a release of compiled engines against this machine, and print what starts it; ARGS="--help"
	@$(PY) build_scripts/launch.py --repository "$(REPOSITORY)" $(ARGS)

serve: build ## do everything that is needed, then serve in the foreground (Ctrl-C stops)
	@exec $(PY) -m conch.server serve --repository "$(REPOSITORY)"

up: build ## the same in the background
	@exec $(PY) -m conch.server up --repository "$(REPOSITORY)"

down: ## stop the server: what is in flight may finish
	$(NEEDS_SETUP)
	@exec $(PY) -m conch.server down

status: ## is it up, where, since when (exit code 0 up, 3 down, 4 not ready)
	$(NEEDS_SETUP)
	@exec $(PY) -m conch.server status

logs: ## follow Triton's log (Ctrl-C ends)
	$(NEEDS_SETUP)
	@exec $(PY) -m conch.server logs --follow

ask: setup ## ask the running server: make ask Q="What is the capital of France?"
	@test -n "$$Q" || { echo 'usage: make ask Q="What is the capital of France?"' >&2; exit 2; }
	@exec $(BIN)/conch ask -- "$$Q"

chat: setup ## talk with the running server
	@exec $(BIN)/conch chat

bench: up setup-dev ## measure throughput here, side by side with the bare engine; starts the server if it is down
	@exec $(PY) -m benchmarks.bench --repository "$(REPOSITORY)" $(BENCH_ARGS)

cost: setup-dev ## what tokens cost, and from which load on self-hosting pays; COST_ARGS="--help" tells what there is
	@exec $(PY) -m conch_load.cost $(COST_ARGS)

# --- load tests (docs/load_testing.md) ----------------------------------------------------------------------------

CONCH_LOAD := $(PY) -m conch_load
LOAD_TARGET ?= 127.0.0.1:$${CONCH_GRPC_PORT:-8001}
LOAD_ARGS ?=
comma := ,

load-test: up setup-dev ## one minute of load on the server here, with a report; LOAD_ARGS="--users 64 ..."
	@exec $(CONCH_LOAD) run --target "$(LOAD_TARGET)" --repository "$(REPOSITORY)" $(LOAD_ARGS)

load-ui: up setup-dev ## Locust's web page on http://127.0.0.1:8089, token metrics live on /tokens
	@exec $(BIN)/locust -f load_tests/locustfile.py --web-host 127.0.0.1 --target "$(LOAD_TARGET)" \
		--repository "$(REPOSITORY)" $(LOAD_ARGS)

load-soak: up setup-dev ## the same for SOAK_S seconds (an hour), at a rate of its own
	@exec $(CONCH_LOAD) run --name soak --target "$(LOAD_TARGET)" --repository "$(REPOSITORY)" \
		--duration-s $(or $(SOAK_S),3600) --rate $(or $(SOAK_RATE),2) $(LOAD_ARGS)

.PHONY: load-sweep load-slo load-fronts

load-sweep: up setup-dev ## a ladder of users, or of rates: LOAD_ARGS="--ladder-rates 1,2,4,8"
	@exec $(CONCH_LOAD).search sweep --target "$(LOAD_TARGET)" --repository "$(REPOSITORY)" $(LOAD_ARGS)

load-slo: up setup-dev ## largest rate at which latencies hold: TTFT_P99_MS=500 TPOT_P99_MS=100, or SLO="ttft_p95_ms=500"
	@test -n "$(TTFT_P99_MS)$(TPOT_P99_MS)$(SLO)" || \
	{ echo 'usage: make load-slo TTFT_P99_MS=500 TPOT_P99_MS=100' >&2; exit 2; }
	@exec $(CONCH_LOAD).search slo --target "$(LOAD_TARGET)" --repository "$(REPOSITORY)" --slo \
		"$(SLO)$(if $(TTFT_P99_MS),$(if $(SLO),$(comma))ttft_p99_ms=$(TTFT_P99_MS))$(if $(TPOT_P99_MS),$(if \
		$(SLO)$(TTFT_P99_MS),$(comma))tpot_p99_ms=$(TPOT_P99_MS))" $(LOAD_ARGS)

load-fronts: up setup-dev ## 64 users through gRPC and HTTP in turns, and what each costs: LOAD_ARGS="--users 16 --rounds 5"
	@exec $(CONCH_LOAD).search fronts --target "$(LOAD_TARGET)" --repository "$(REPOSITORY)" $(LOAD_ARGS)

load-calibrate: setup-dev ## the generator against a server of known times; CALIBRATE_ARGS="--ceiling 128 256"
	@exec $(PY) -m conch_load.calibrate $(CALIBRATE_ARGS)

load-workers: setup-dev ## join a distributed run as a worker: MASTER=host:port, the run's --master-bind
	@test -n "$(MASTER)" || { echo 'usage: make load-workers MASTER=host:port' >&2; exit 2; }
	@exec $(CONCH_LOAD) worker --master "$(MASTER)"

.PHONY: load-report load-compare load-gate

load-report: setup-dev ## summary and reports of a run, or of all runs below a folder: RUN=reports/load/...
	@test -n "$(RUN)" || { echo 'usage: make load-report RUN=reports/load/NAME [REPORT_ARGS=...]' >&2; exit 2; }
	@exec $(PY) -m conch_load.report "$(RUN)" $(REPORT_ARGS)

load-compare: setup-dev ## what changed between two runs, with intervals: BEFORE=... AFTER=...
	@test -n "$(BEFORE)" -a -n "$(AFTER)" || { echo 'usage: make load-compare BEFORE=RUN AFTER=RUN' >&2; exit 2; }
	@exec $(PY) -m conch_load.compare "$(BEFORE)" "$(AFTER)" $(COMPARE_ARGS)

load-gate: setup-dev ## fails when a run is worse than its baseline: RUN=... BASELINE=... [GATE_ARGS="--max-regression 10%"]
	@test -n "$(RUN)" -a -n "$(BASELINE)" || { echo 'usage: make load-gate RUN=... BASELINE=...' >&2; exit 2; }
	@exec $(PY) -m conch_load.gate "$(RUN)" --baseline "$(BASELINE)" $(GATE_ARGS)

# --- containers ---------------------------------------------------------------------------------------------------

.PHONY: image-cpu image-gpu compose-config

image-cpu: ## build the image conch:cpu (DOCKER=podman for another builder)
	$(DOCKER) build --file docker/Dockerfile.cpu --tag conch:cpu $(IMAGE_ARGS) .

image-gpu: ## build the image conch:gpu, on NVIDIA's container
	$(DOCKER) build --file docker/Dockerfile.gpu --tag conch:gpu $(IMAGE_ARGS) .

compose-config: setup-dev ## what compose makes of docker/compose.yaml
	@$(BIN)/docker-compose --file docker/compose.yaml --profile cpu --profile gpu config

# --- tidying ------------------------------------------------------------------------------------------------------

clean: ## remove caches of tools and the run folder
	@if test -x $(PY); then $(PY) -m conch.server down; fi
	rm -rf .run build dist .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	find $(wildcard $(CODE)) -name __pycache__ -type d -prune -exec rm -rf {} +

distclean: clean ## also the environments, downloads and the model repository
	rm -rf .venv .venv-export .cache
	find $(REPOSITORY) -mindepth 1 -maxdepth 1 ! -name README.md -exec rm -rf {} +
