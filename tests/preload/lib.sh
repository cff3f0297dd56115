# For the tests of the preload library with real programs. Sourced; needs SMBDIRECT_BUILD. Each has an engine of its own.
set -Eeuo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/../../tools/lib.sh"
python=/usr/bin/python3
[ -e "$library" ] || { echo "SKIP: $library is not built (a sanitized build has none)"; exit 77; }
dir=$(mktemp -d "${TMPDIR:-/tmp}/smbdirect-preload-${0##*/}.XXXXXX")
export SMBDIRECT_SOCKET=smbdirect-preload-${0##*/}-$$ SMBDIRECT_IDLE_EXIT=30
trap 'status=$?; stop_engine; rm -rf "$dir"; exit $status' EXIT
trap 'exit 130' INT
trap 'exit 143' TERM
fail() { printf 'FAIL: %s\n' "$*" >&2; exit 1; }
