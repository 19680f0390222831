#!/bin/sh
# Copies the libbpf headers that egress.bpf.c uses, unchanged, into this directory.
#
#   update.sh [DIRECTORY]    libbpf's src/ after `make install_headers`, or a distribution's
#                            /usr/include/bpf (Debian: libbpf-dev). Default: /usr/include/bpf
#
# The version is written to VERSION. Nothing else comes from the building host: context.h holds the
# few kernel structures we read, so that the object does not depend on installed kernel headers.
set -eu
from=${1:-/usr/include/bpf}
cd "$(dirname "$0")"
for header in bpf_endian.h bpf_helper_defs.h bpf_helpers.h; do
	cp "$from/$header" "$header"
	chmod 644 "$header"
done
major=$(sed -n 's/#define LIBBPF_MAJOR_VERSION //p' "$from/libbpf_version.h")
minor=$(sed -n 's/#define LIBBPF_MINOR_VERSION //p' "$from/libbpf_version.h")
echo "libbpf $major.$minor" >VERSION
