# `make demo` and `make test` install what they need, and can be run again at any time. The rest are the longer
# campaigns and the benchmarks.

.PHONY: help demo test attack fuzz soak money chaos storm fleet scale bench overhead counted

MINUTES ?= 30
SECONDS_EACH ?= 60
ACTIONS ?= 1000000
SEEDS ?= 100
SECONDS ?= 120

help:
	@echo 'make demo     a governed LangChain agent on this machine, from start to verified audit log'
	@echo 'make test     all tests: the Rust workspace and the Python SDK'
	@echo
	@echo 'make attack   the heavier attacks, and what a quiet agent feels of each'
	@echo 'make fuzz     every fuzz target for SECONDS_EACH=60 seconds'
	@echo 'make soak     mixed load with restarts for MINUTES=30 minutes'
	@echo 'make money    a million actions that cost money, over a failing store: ACTIONS=1000000, SEED=n to repeat a run'
	@echo 'make chaos    simulated clusters under fire: SEEDS=100 new ones and those that ever failed; SEED=n SEEDS=1 to repeat one'
	@echo 'make storm    real control planes under fire for SECONDS=120, and processes over FoundationDB where root can; SEED=n for the same faults'
	@echo 'make fleet    one to three nodes over FoundationDB, and failover: STORE=fdb:///etc/foundationdb/fdb.cluster'
	@echo 'make scale    ten million decisions, then a million registered agents (20 GB of disk)'
	@echo 'make bench    decisions per second beside a bare echo'
	@echo 'make overhead what the Python SDK adds to a governed tool call'
	@echo 'make counted  instructions, allocations, bytes and fsyncs, compared with those kept in the repository'

demo:
	@deploy/demo/run

test:
	@.ci/test

attack:
	@cargo test --release -p aa-chaos-tests --test attack_load -- --include-ignored --nocapture --test-threads=1
	@cargo build --release -p aa-chaos-tests --bin victim
	@cargo run --release -p aa-chaos-tests --bin neighbours -- 5

fuzz:
	@chaos-tests/fuzz/run $(SECONDS_EACH)

soak:
	@cargo build --release -p aa-chaos-tests --bin victim
	@cargo run --release -p aa-chaos-tests --bin soak -- $(MINUTES)

money:
	@cargo run --release -p aa-chaos-tests --bin money -- $(ACTIONS) $(SEED)

chaos:
	@cargo run --release -p aa-chaos-tests --bin chaos -- $(SEEDS) $(SEED)

storm:
	@cargo run --release -p aa-chaos-tests --bin storm -- $(SECONDS) $(SEED)

scale:
	@cargo build --release -p aa-chaos-tests --bin victim
	@cargo run --release -p aa-chaos-tests --bin scale -- drift
	@cargo run --release -p aa-chaos-tests --bin scale -- crowd

fleet:
	@cargo build --release -p aasm --features foundationdb
	@cargo run --release -p aa-chaos-tests --bin fleet -- $(STORE)

bench:
	@cargo build --release -p aa-chaos-tests --bin victim --bin echo
	@cargo run --release -p aa-chaos-tests --bin throughput -- 3
	@cargo run --release -p aa-chaos-tests --bin reserve -- 3

overhead:
	@.ci/overhead

counted:
	@.ci/counted
