# Activity Archive: build, try and test. `make help` lists the targets.

.POSIX:
.SUFFIXES:

GO = go
BINARY = handler/handler

# The same tree gives the same bytes: no paths, no cgo, no build time. The
# version comes from git, where there is a git that answers.
VCS = $$(git rev-parse HEAD >/dev/null 2>&1 || echo -buildvcs=false)

.PHONY: help build run lab start test crash fuzz bench clean

help: ## list the targets
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/  make \1\t\2/p' Makefile | expand -t 16

build: ## build handler/handler (GOOS=linux GOARCH=amd64 make build: for Azure)
	CGO_ENABLED=0 $(GO) build -trimpath $(VCS) -ldflags "-s -w" -o $(BINARY) ./handler

run: build ## archive a simulated tenant's week and reconcile it (SABOTAGE=drop|alter|double: damage one record first)
	cd handler/lab && $(GO) run . run --app=../.. $${SABOTAGE:+--sabotage="$$SABOTAGE"}

lab: build ## keep the same simulated world up and print its URLs, until Ctrl+C
	cd handler/lab && $(GO) run . up --app=../..

start: ## run in the real Functions host, with your local.settings.json
	@command -v func >/dev/null || { echo 'make start needs Azure Functions Core Tools v4 (the command func). Install it as https://learn.microsoft.com/azure/azure-functions/functions-run-local says, or try "make run", which needs nothing.' >&2; exit 2; }
	@test -f local.settings.json || { echo 'make start needs local.settings.json. Copy local.settings.json.example to that name and fill it in, or try "make run", which needs nothing.' >&2; exit 2; }
	$(MAKE) build
	func start

test: ## format, vet, lint, and every test of every module, end to end too
	@sh .ci/test

crash: ## kill the handler at every boundary of its I/O and at every pair, about ten minutes (CRASH="one 12+ 3-": one schedule)
	cd handler/lab && $(GO) test ./loss -run TestEveryCrash -crash="$${CRASH:-all}" -v -timeout 3h

fuzz: ## fuzz every decoder of foreign bytes in turn (FUZZTIME=30s: for each; FUZZ=name: that one)
	@sh .ci/fuzz

bench: build ## measure the handler beside plain programs, about seven minutes (CASE=name: one row)
	cd handler/lab && $(GO) run ./bench --app=../.. --out=bench/out $${CASE:+--case="$$CASE"}

clean: ## remove what was built
	rm -f $(BINARY) $(BINARY).exe
	rm -rf handler/lab/bench/out
