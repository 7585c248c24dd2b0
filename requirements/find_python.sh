#!/bin/sh
# Prints the path of a Python that can run Conch: 3.10, 3.11 or 3.12, with venv, and with the shared library that
# Triton's Python stub loads. $PYTHON names one to take; otherwise the first that fits is taken.
# Where none does, says what is missing and how to get it, and exits with 1.
set -eu

# Prints "ok PATH", or what this Python lacks.
check='
import os, sys, sysconfig
version = "%d.%d" % sys.version_info[:2]
missing = []
if not (3, 10) <= sys.version_info[:2] <= (3, 12):
    print("is Python %s; it must be 3.10, 3.11 or 3.12" % version)
    sys.exit()
try:
    import ensurepip, venv
except ImportError:
    missing.append("python%s-venv" % version)
name = "libpython%s.so.1.0" % version
folders = [sysconfig.get_config_var("LIBDIR") or "", os.path.join(sys.base_prefix, "lib")]
folders += [os.path.join(folder, sysconfig.get_config_var("MULTIARCH") or "") for folder in folders]
if not any(os.path.exists(os.path.join(folder, name)) for folder in folders):
    missing.append("libpython%s" % version)
if missing:
    print("lacks %s (Debian and Ubuntu: apt-get install %s)" % (" and ".join(missing), " ".join(missing)))
else:
    print("ok " + sys.executable)
'

found=""
for candidate in ${PYTHON:-python3 python3.12 python3.11 python3.10}; do
    path=$(command -v "$candidate" 2>/dev/null) || continue
    # A pyenv shim is there for versions that are not chosen, too, and fails when it is run.
    answer=$("$path" -c "$check" 2>/dev/null) || continue
    case $answer in
        "ok "*) echo "${answer#ok }"; exit 0 ;;
        *) found="$found  $path $answer
" ;;
    esac
done

{
    if [ -n "${PYTHON:-}" ]; then
        echo "error: PYTHON must name a Python 3.10, 3.11 or 3.12 that can run Conch, got '$PYTHON'"
    else
        echo "error: there is no Python 3.10, 3.11 or 3.12 here that can run Conch"
    fi
    if [ -n "$found" ]; then
        printf '%s' "$found"
    else
        echo "  Install one (Debian and Ubuntu: apt-get install python3 python3-venv), or name one: make PYTHON=/path/to/python3.11"
    fi
} >&2
exit 1
