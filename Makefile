# The commands that a fresh machine needs; each installs what is missing
# and says so. Everything else is `cargo xtask help`.

FIRMWARE ?= uefi
export DEBIAN_FRONTEND = noninteractive

.PHONY: demo test bench setup-demo setup-test setup-bench clean-demo

## demo: build an image, boot a bare VM over the network, install it, boot it, twice
demo: setup-demo
	cargo xtask demo --firmware $(FIRMWARE)

## test: all tests, real boots included
test: setup-test
	cargo xtask test

## bench: ingot's store beside its peers, with targets; the images are made once
bench: setup-bench
	cargo xtask bench store

setup-demo setup-test setup-bench: setup-%:
	@sh xtask/setup.sh $*

## clean-demo: drop what the demo keeps between its runs
clean-demo:
	rm -rf target/demo
