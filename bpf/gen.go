package bpf

// The object is compiled by the bpf2go of go.mod's tool line with clang 14 (Debian 12); -g is stripped
// to BTF by llvm-strip, and context.h keeps the host's kernel headers out, so that a second run leaves
// no difference.
//go:generate go tool bpf2go -cc clang -strip llvm-strip -target bpfel -type endpoint -type counter egress egress.bpf.c -- -O2 -Wall -Wextra -Werror -nostdinc -Iheaders
