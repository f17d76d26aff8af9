# make run, make test: all that a fresh clone needs is Python 3.11 or newer. The environment is made once, from
# requirements.txt, and made up to date when that file changes.
#   PYTHON=python3.13   the Python that makes it        VENV=DIR   where it lies
#   ARGS="..."          further arguments of launch.py or of pytest
PYTHON ?= python3
VENV ?= .venv
ARGS ?=
MADE := $(VENV)/made_by_$(subst /,_,$(PYTHON))

.PHONY: run test venv
run: $(MADE)
	$(VENV)/bin/python launch.py --config=configs/cifar_resnet.py:digits $(ARGS)

test: $(MADE)
	$(VENV)/bin/python -m pytest -n 2 --dist loadfile $(ARGS)

venv: $(MADE)

# Debian leaves ensurepip out of its python3: then the pip of that Python, where there is one, fills the environment.
$(MADE): requirements.txt
	@command -v "$(PYTHON)" > /dev/null || { echo "There is no $(PYTHON). On Debian or Ubuntu: apt-get install python3 python3-venv. Elsewhere: make PYTHON=path/to/python" >&2; exit 1; }
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "kd_jax needs Python 3.11 or newer; $(PYTHON) is $$("$(PYTHON)" -V 2>&1). Name a newer one: make PYTHON=python3.13" >&2; exit 1; }
	@echo "Installing requirements.txt into $(VENV). This happens once and takes some minutes."
	@set -e; venv="$(PYTHON) -m venv $(if $(wildcard $(VENV)/pyvenv.cfg),--clear)"; install="install --quiet --disable-pip-version-check -r requirements.txt"; \
	if "$(PYTHON)" -c 'import ensurepip' 2> /dev/null; then \
		test -e $@ || $$venv "$(VENV)"; "$(VENV)/bin/python" -m pip $$install; \
	elif "$(PYTHON)" -m pip --version > /dev/null 2>&1; then \
		test -e $@ || $$venv --without-pip "$(VENV)"; "$(PYTHON)" -m pip --python "$(VENV)/bin/python" $$install; \
	else \
		echo "$(PYTHON) can make no environment with pip in it. On Debian or Ubuntu: apt-get install python3-venv" >&2; exit 1; \
	fi
	@touch $@
