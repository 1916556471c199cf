# Each target stands alone: on a fresh machine it first sets up what it needs, and says so.
#   make mount [MNT=/mnt/dfs]   mount the volume, and start its cluster when none runs
#   make test [PYTEST=-x]       lint, then every test        make bench   everyday workloads, beside the local disk
#   make simulate [SEEDS=2000 FIRST=0]   simulated clusters in which everything fails; SEED=17 replays one with its trace
#   make programs [NAMES=git]   real programs on two mounts, compared with the local disk; takes half an hour
#   make faults [FAULTS=100 SEED=1]   real servers are killed, stopped and cut off under load; a quarter of an hour
#   make venv                   .venv alone                  make lint    ruff
#   make clean                  remove what the others have made here; volumes and caches stay
# PYTHON=/path/to/python3 chooses the Python that .venv is made with; the distribution's own unless told otherwise.

MNT ?= /mnt/dfs
PYTEST ?=
NAMES ?=
SEEDS ?= 2000
FIRST ?= 0
SEED ?=
FAULT ?=
DISASTER ?=
FAULTS ?= 100
export PYTHON
# The tests start thousands of Pythons: each takes half the time where it need not compile all modules again.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: mount venv test programs simulate faults bench lint clean

mount: venv
	@.ci/setup mount
	@grep -qF " $(MNT) " /proc/self/mountinfo || test -e "$(MNT)" || mkdir -p "$(MNT)"
	@if mountpoint -q "$(MNT)"; then echo "$(MNT) is mounted already"; else .venv/bin/python mount.py "$(MNT)"; fi

venv:
	@.ci/setup venv

test: lint
	@.ci/setup test
	.venv/bin/python -m pytest -n 3 --dist loadfile $(PYTEST)

simulate: venv
	cd tests && ../.venv/bin/python -m simulation --fault "$(FAULT)" --disaster "$(DISASTER)" \
		$(if $(SEED),--seed $(SEED),--seeds $(SEEDS) --first $(FIRST))

programs: venv
	@.ci/setup test
	@.ci/setup programs
	cd tests && ../.venv/bin/python -m programs $(NAMES)

faults: venv
	@.ci/setup test
	cd tests && ../.venv/bin/python -m faults --faults $(FAULTS) $(if $(SEED),--seed $(SEED))

bench: venv
	@.ci/setup mount
	.venv/bin/python -m bench

lint: venv
	.venv/bin/ruff check --config .ci/ruff.toml .
	.venv/bin/ruff format --check --config .ci/ruff.toml .

clean:
	rm -rf .venv build dfsfuse.egg-info .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
