# Every target checks the machine, installs missing packages, builds and runs.
# The chores themselves are in xtask (`cargo xtask help`).
#
#   make demo                 a lab of three nodes with two Deployments and a Service, and its traffic
#   make test                 every test; without root: PURE=1 make test
#   make test-kernels         the kernel tests on Debian's stock 6.1 and 6.12, in QEMU
#   make build                the product and the lab, in target/release
#   make bench ARGS="..."     the benchmarks
#   make fuzz                 the fuzz targets, one minute each (needs cargo-fuzz)
#   make docs                 regenerate the generated pages
#   make ebpf                 the eBPF programs, compared with crates/ebpf/budget.txt
#   make deny                 licences, duplicates and advisories of the dependencies (needs cargo-deny)
#   make preflight            check the machine only
#   make clean                remove what was built

.PHONY: demo test build bench docs fuzz ebpf deny test-kernels preflight clean help

help:
	@sed -n 's/^# \{0,1\}//p' Makefile

demo test build bench docs fuzz ebpf deny test-kernels preflight:
	@tools/bootstrap.sh $@ $(ARGS)

clean:
	rm -rf target crates/ebpf/target
