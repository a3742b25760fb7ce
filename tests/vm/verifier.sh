# shellcheck shell=sh
# The verifier's effort for each BPF program, of each kernel. In the machine; the program and the objects are beside it.
/checks/verifier /checks/*.bpf.o
