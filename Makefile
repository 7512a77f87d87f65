# The two commands of this project. Both install what they need, and both can be run again at any time.

.PHONY: help demo test

help:
	@echo 'make demo   a governed LangChain agent on this machine, from start to verified audit log'
	@echo 'make test   all tests: the Rust workspace and the Python SDK'

demo:
	@deploy/demo/run

test:
	@.ci/test
