# Everything that a newcomer needs is `make demo` and `make test`; `make help` lists the rest.
# Needs Python 3.11 or later, make and git. Never calls sudo or a system package manager; names what is missing instead.

PYTHON ?= python3
VENV ?= .venv
ARGS ?=
BIN := $(VENV)/bin
export OMP_NUM_THREADS ?= 1
SDK_TESTS := tests/unit/sdk tests/unit/otlp tests/unit/metrics tests/unit/recording tests/unit/sampling tests/unit/privacy tests/unit/test_instrumentor.py

.DEFAULT_GOAL := help
.PHONY: help tools tools-lock stack compose-smoke e2e-platform musl-python demo serve test test-upstream test-agents test-sdks lint format bench dist clean lock dashboards kubernetes rules schema pictures screenshots soak audit gpu test-servers mutation

help: ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /  \1\t/' | expand -t 20

$(VENV)/.service: requirements/service.txt requirements/build.txt pyproject.toml
	@$(PYTHON) tools/bootstrap.py --venv $(VENV) --requirements requirements/service.txt
	@touch $@

$(VENV)/.test: requirements/test.txt requirements/build.txt pyproject.toml
	@$(PYTHON) tools/bootstrap.py --venv $(VENV) --requirements requirements/test.txt
	@touch $@ $(VENV)/.service

demo: $(VENV)/.service ## run the main job: speech requests, a trace in the terminal, metrics (ARGS=--once ends there)
	@$(BIN)/vibevoice-otel demo $(ARGS)

serve: $(VENV)/.service ## the embedded service under the launcher (ARGS are the service's)
	@$(BIN)/opentelemetry-instrument $(BIN)/vibevoice-otel serve $(ARGS)

tools: ## build the real Collector, Prometheus, Alertmanager and compose from pinned sources (once, kept in ~/.cache)
	@$(PYTHON) -m tools.toolchain

tools-lock: ## after a change of collector/builder.yaml: pin its modules and checksums anew
	@$(PYTHON) -m tools.toolchain --lock

stack: $(VENV)/.service tools ## the demo service in front of the real Collector, Prometheus and Alertmanager; Ctrl-C ends all
	@$(BIN)/python -m tools.stack $(ARGS)

compose-smoke: $(VENV)/.service ## docker compose up, one request, its series and its trace, down again (needs Docker)
	@$(BIN)/python -m tools.stack.compose_smoke

e2e-platform: $(VENV)/.test tools ## Kubernetes' API, its autoscaler, the Operator, Jaeger and VictoriaMetrics for real (the first time builds them: 12 minutes, and the Operator's)
	@$(PYTHON) -m tools.toolchain --platform
	VIBEVOICE_E2E_PLATFORM=1 $(BIN)/python -m pytest tests/platform $(ARGS)

musl-python: ## a CPython on musl from Debian's sources, for e2e-platform's pod on musl (half an hour on two busy cores, kept in ~/.cache; needs musl-tools)
	@tools/musl_python.sh

dashboards: schema ## write the dashboards' JSON, the rules' YAML, the registry, docs/telemetry.md and the manifests from their sources
	@$(BIN)/python -m dashboards
	@$(BIN)/python -m tools.kubernetes

kubernetes: $(VENV)/.test ## write deploy/kubernetes/rendered from the chart (needs helm: make tools)
	@$(BIN)/python -m tools.kubernetes

rules: dashboards ## the same command writes both

schema: $(VENV)/.test ## write registry/ and docs/telemetry.md from semconv.py
	@$(BIN)/python -m tools.schema

screenshots: $(VENV)/.test ## take docs/images/live-page-*.png of the real page (needs Chromium)
	@$(BIN)/python -m tests.browser.screenshots

pictures: $(VENV)/.test tools ## draw docs/images/dashboard-*.png from a real Prometheus filled by the demo service (about 3 minutes)
	@$(BIN)/python -m dashboards.pictures

.PHONY: tempo-check grafana-check
tempo-check: $(VENV)/.test ## does a real Tempo find, by the dashboards' searches, the traces that this sends it? (TEMPO_URL=, TEMPO_OTLP=host:port)
	@TEMPO_URL="$(TEMPO_URL)" TEMPO_OTLP="$(TEMPO_OTLP)" $(BIN)/python -m tools.grafana.tempo_check

grafana-check: $(VENV)/.test ## every query and a picture of every dashboard through a running Grafana's API (GRAFANA=url, OUT=folder)
	@$(BIN)/python -m tools.grafana.check "$(GRAFANA)" $(if $(OUT),--pictures "$(OUT)")

test: $(VENV)/.test ## every test that this machine can run
	$(BIN)/python -m tools.test $(ARGS)

test-upstream: $(VENV)/.test ## the server's tests against a checkout of microsoft/VibeVoice, with weights made here (UPSTREAM=path)
	@test -f "$(UPSTREAM)/demo/web/app.py" || { echo "UPSTREAM=path must name a checkout of microsoft/VibeVoice: no $(UPSTREAM)/demo/web/app.py" >&2; exit 2; }
	VIBEVOICE_UPSTREAM="$(abspath $(UPSTREAM))" $$($(BIN)/python tools/overlay.py upstream) -m pytest tests/upstream $(ARGS)

test-agents: $(VENV)/.test ## the recipes for Pipecat and LiveKit Agents with the real packages, in an environment of their own (600 MB)
	$$($(BIN)/python tools/overlay.py agents) -m pytest tests/deployments/test_agents.py $(ARGS)
test-servers: $(VENV)/.test ## the HTTP tests over real checkouts in a folder, with weights made here (SERVERS=folder; docs/servers.md)
	@test -d "$(SERVERS)" || { echo "SERVERS=folder must name a folder of checkouts (docs/servers.md)" >&2; exit 2; }
	VIBEVOICE_SERVERS="$(abspath $(SERVERS))" $$($(BIN)/python tools/overlay.py upstream) -m pytest tests/servers/test_checkouts.py $(ARGS)

test-sdks: $(VENV)/.test ## what leans on the SDK's insides, with the oldest and the newest OpenTelemetry that is supported
	@for each in sdk-oldest sdk-newest; do $$($(BIN)/python tools/overlay.py $$each) -m pytest $(SDK_TESTS) $(ARGS) || exit 1; done

soak: $(VENV)/.test ## the long reliability tests: two minutes of outage, thousands of listeners, an hour at 50 streams
	$(BIN)/python -m pytest -m soak tests/reliability -s $(ARGS)

gpu: $(VENV)/.test ## on a machine with a CUDA device: tests/gpu and the figures of docs/gpu.md, to out/gpu (ARGS are benchmarks.gpu's)
	@PYTHON=$(abspath $(BIN))/python ARGS="$(or $(ARGS),--frames 8 --rounds 3)" tools/gpu_card.sh

audit: $(VENV)/.test ## known vulnerabilities of what is pinned (asks PyPI), and the licence of everything installed
	@$(BIN)/python tools/licences.py
	@$(PYTHON) -m venv $(VENV)/audit
	@$(VENV)/audit/bin/pip install -q --require-hashes -r requirements/audit.txt
	$(VENV)/audit/bin/pip-audit --strict --disable-pip --require-hashes --progress-spinner off -r requirements/service.txt -r requirements/test.txt

mutation: $(VENV)/.test ## do the unit tests of recording, metrics and sampling notice a change of the code? (40 minutes; ARGS="--count 50 --minutes 5")
	@$$($(BIN)/python tools/overlay.py mutation) -m tools.mutation $(ARGS)

lint: $(VENV)/.test ## ruff and mypy --strict
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(VENV)/.test ## rewrite to the project's style
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(VENV)/.test ## what the telemetry costs, every table of docs/performance.md (an hour; one alone: python -m benchmarks.NAME)
	@for name in hot_path cpu stages growth in_process pipeline end_to_end; do $(BIN)/python -m benchmarks.$$name $(ARGS) || exit 1; done

dist: $(VENV)/.test ## wheel and sdist, checked
	rm -rf dist
	$(BIN)/python -m build
	$(BIN)/twine check --strict dist/*

lock: ## pin every dependency again, with hashes and without addresses (needs uv)
	uv pip compile pyproject.toml --extra service --universal --generate-hashes --python-version 3.10 -c requirements/pins.txt -o requirements/service.txt --no-header -q
	uv pip compile pyproject.toml --extra test --universal --generate-hashes --python-version 3.10 -c requirements/pins.txt -c requirements/service.txt -o requirements/test.txt --no-header -q
	printf 'hatchling>=1.25\neditables\n' | uv pip compile - --universal --generate-hashes --python-version 3.10 -c requirements/service.txt -c requirements/test.txt -o requirements/build.txt --no-header -q
	uv pip compile requirements/instrumentation.in --no-deps --universal --generate-hashes --python-version 3.10 -c requirements/service.txt -o requirements/instrumentation.txt --no-header -q
	for each in sdk-oldest sdk-newest; do uv pip compile requirements/$$each.in --no-deps --universal --generate-hashes --python-version 3.10 -o requirements/$$each.txt --no-header -q; done
	uv pip compile requirements/agents.in --no-deps --universal --generate-hashes --python-version 3.11 -o requirements/agents.txt --no-header -q
	echo mutmut | uv pip compile - --universal --generate-hashes --python-version 3.10 -c requirements/test.txt -o requirements/mutation.txt --no-header -q
	echo pip-audit | uv pip compile - --universal --generate-hashes --python-version 3.10 -o requirements/audit.txt --no-header -q

clean: ## remove what was built here
	rm -rf $(VENV) dist build .mypy_cache .pytest_cache .ruff_cache
