# Every target: look at the machine, install what is missing, build, run.
# The chores themselves live in xtask (`cargo xtask --help`).
#
#   make demo                 three nodes, two Deployments, a Service: see it work
#   make test                 every test; without root: PURE=1 make test
#   make test-kernels         the kernel tests on Debian's stock 6.1 and 6.12, in QEMU
#   make build                the binaries, under target/release
#   make bench ARGS="..."     our own benchmarks
#   make fuzz                 the fuzz targets, a minute each, where cargo-fuzz is present
#   make docs                 write the generated pages of docs/ again

.PHONY: demo test build bench docs fuzz ebpf test-kernels preflight clean help

help:
	@sed -n 's/^# \{0,1\}//p' Makefile

demo test build bench docs fuzz ebpf test-kernels preflight:
	@tools/bootstrap.sh $@ $(ARGS)

clean:
	rm -rf target crates/ebpf/target
