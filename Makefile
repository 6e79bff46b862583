# make demo      train a conditional VAE, draw its samples, evaluate them and make a page to play with
# make test      lint and tests, under 5 minutes
# make test-all  the long tests too
# make reproduce the tables of RESULTS.md, about a day on two cores; may be stopped and started again at any moment
#     BUDGET=short      10 updates for each row, into runs/reproduce-short/table.md
#     BUDGET=tenth      a tenth of the updates for the heavy rows, into runs/reproduce-tenth/table.md
#     EXPERIMENT=r4     a report or a row
#     DATA_DIR=DIR      with DIR/mnist and DIR/butterflies for R2 and R3, quickdraw for R0 and R4; without it, those of the repository
#
# PIP_ARGS is passed to every pip install, PYTHON is the Python that creates .venv.

PYTHON ?= python3
PIP_ARGS ?=
CVAE = runs/cvae-mnist10k
JUDGE = runs/classifier-mnist10k

BUDGET ?= full

.PHONY: demo test test-all reproduce
.DELETE_ON_ERROR:

.venv/run: requirements.txt
	@$(PYTHON) -c "import sys; sys.exit(sys.version_info < (3, 11) and 'Python 3.11 or newer is needed: make PYTHON=...')"
	test -x .venv/bin/pip || $(PYTHON) -m venv --clear .venv
	.venv/bin/python -m pip install --quiet --disable-pip-version-check $(PIP_ARGS) -r requirements.txt
	@touch $@

.venv/dev: requirements-dev.txt .venv/run
	.venv/bin/python -m pip install --quiet --disable-pip-version-check $(PIP_ARGS) -r requirements-dev.txt
	@touch $@

# An interrupted run is resumed, a finished one is kept
runs/%-mnist10k/summary.json: | .venv/run
	@if [ -e $(@D)/last.pt ]; then .venv/bin/python train.py --resume $(@D); \
	else .venv/bin/python train.py --model $* --out $(@D); fi

demo: $(JUDGE)/summary.json $(CVAE)/summary.json
	@echo; .venv/bin/python sample.py $(CVAE) --what class --judge $(JUDGE)
	@echo; .venv/bin/python metrics.py $(CVAE) --features classifier:$(JUDGE)
	@echo; .venv/bin/python sample.py $(CVAE) --what play
	@echo
	@echo "The pictures are in $(CVAE): classes.png, reconstructions.png, interpolation.png, loss.png."
	@echo "Then try (python is .venv/bin/python):"
	@echo "  python sample.py $(CVAE) --what class --classes 3,5,8 -n 5 --judge $(JUDGE)"
	@echo "  python train.py --model cvae --beta 4                        # a larger weight of the KL"
	@echo "  python train.py --model vae --latent-dim 2 --dense 256      # then look at manifold.png"
	@echo "  python train.py --help"
	@echo "And play: open $(CVAE)/play.html in a browser."

test: .venv/dev
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/python -m pytest -n 2

test-all: .venv/dev
	.venv/bin/python -m pytest -m ""

reproduce: .venv/run
	exec .venv/bin/python experiments/reproduce.py $(EXPERIMENT) --budget $(BUDGET) $(if $(DATA_DIR),--data-dir "$(DATA_DIR)")
