#!/bin/sh
# Says in one sentence what keeps this host, or this container, from serving on its GPUs. Silent if nothing does.
# On a host: sh images/preflight.sh. Images for GPUs run it before Triton starts, unless CONCH_PREFLIGHT=off.

# The oldest driver for CUDA 13 (NVIDIA's CUDA compatibility guide, "Minor Version Compatibility").
DRIVER=580
# CUDA 13 has no kernels for GPUs before Turing (NVIDIA's release notes of CUDA 13.0).
CAPABILITY=7.5
# The first one without CVE-2026-24260 (NVIDIA's security bulletin 5850).
TOOLKIT=1.19.1

fail() {
    echo "preflight: $1" >&2
    exit 1
}

older() { # whether version $1 is older than version $2
    [ "$1" != "$2" ] && [ "$(printf '%s\n%s\n' "$1" "$2" | sort -V | head -n 1)" = "$1" ]
}

ask() { # a property of each GPU that serves; nvidia-smi's 14 is a corrupt inforom, with which a GPU works
    case ${CUDA_VISIBLE_DEVICES:-} in
    '' | *MIG*) set -- "$1" ;;
    *) set -- "$1" -i "$CUDA_VISIBLE_DEVICES" ;;
    esac
    property=$1
    shift
    answer=$(nvidia-smi --query-gpu="$property" --format=csv,noheader "$@" 2>&1) || [ $? = 14 ] ||
        fail "nvidia-smi fails: reinstall NVIDIA's driver or restart the host; it says: $(echo "$answer" | head -n 1)"
    echo "$answer"
}

on_host() { # images have this file at the other place
    [ "$0" != /opt/conch/preflight.sh ]
}

if ! command -v nvidia-smi >/dev/null; then
    on_host && fail "nvidia-smi is not found: install NVIDIA's driver, version $DRIVER or newer."
    fail "no GPU is visible in this container: start it with one, for example by docker run --gpus all."
fi

driver=$(ask driver_version) || exit 1
driver=$(echo "$driver" | head -n 1)
older "$driver" "$DRIVER" && fail "NVIDIA's driver is $driver: update it on the host to $DRIVER or newer, which CUDA 13 needs."

gpus=$(ask compute_cap,name) || exit 1
echo "$gpus" | while IFS=, read -r capability name; do
    older "$capability" "$CAPABILITY" &&
        fail "the GPU${name:-} has compute capability $capability: leave it out by CUDA_VISIBLE_DEVICES, because CUDA 13 needs $CAPABILITY (Turing) or newer."
    true
done || exit 1

if on_host; then
    toolkit=$(nvidia-ctk --version 2>/dev/null | sed -n 's/.*version \([0-9.]*[0-9]\).*/\1/p' | head -n 1)
    [ -n "$toolkit" ] || fail "nvidia-ctk is not found: install NVIDIA's container toolkit, version $TOOLKIT or newer."
    older "$toolkit" "$TOOLKIT" &&
        fail "NVIDIA's container toolkit is $toolkit: update it to $TOOLKIT or newer, because containers can take over the host through older ones."
fi
true
