# Two commands do everything: `make serve` and `make test`. Both set up what they need and are quick the second time.
HOST ?= 127.0.0.1
PORT ?= 8000
PYTHON ?=

# Without a working interpreter (another system Python, a moved folder) the environment is made anew.
$(shell .venv/bin/python -c '' 2>/dev/null || rm -f .venv/.ready-serve .venv/.ready-test)

.PHONY: serve test develop lint clean
.DEFAULT_GOAL := serve

serve: .venv/.ready-serve  ## start the service: http://HOST:PORT/docs
	HOST=$(HOST) PORT=$(PORT) .venv/bin/python -m app

test: .venv/.ready-test  ## run all tests
	scripts/servers.sh
	.venv/bin/python -m pytest --numprocesses auto --dist loadfile --no-loadscope-reorder

develop: .venv/.ready-test  ## what tests, training and benchmarks need

lint: .venv/.ready-test  ## format, style, types, import layers
	.venv/bin/ruff format --check .
	.venv/bin/ruff check .
	.venv/bin/mypy
	.venv/bin/lint-imports

.venv/.ready-serve: requirements.txt requirements-serve.txt scripts/environment.sh
	PYTHON=$(PYTHON) scripts/environment.sh requirements.txt
	touch $@

.venv/.ready-test: requirements.txt requirements-serve.txt requirements-ray.txt requirements-dev.txt scripts/environment.sh
	PYTHON=$(PYTHON) scripts/environment.sh requirements-dev.txt
	touch $@ .venv/.ready-serve

clean:  ## remove the environment
	rm -rf .venv
