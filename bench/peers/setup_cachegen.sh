#!/bin/sh
# The environment in which bench/peers/cachegen.py runs LMCache's serde: bench/peers/.venv, about 1.5 GB, no GPU.
# LMCache itself asks for CUDA packages that its serde never imports: it comes without dependencies, then what it imports.
set -eu
cd "$(dirname "$0")"
rm -rf .venv
"${PYTHON:-python3}" -m venv .venv
export PIP_DISABLE_PIP_VERSION_CHECK=1
.venv/bin/pip install -q "${TORCH:-torch==2.13.0}" # on a machine with a GPU name a CPU build here
.venv/bin/pip install -q 'transformers>=5.4' 'numpy<=2.2.6' numba nvtx psutil pyyaml msgspec sortedcontainers \
    'prometheus_client<=0.24.1' requests cachetools py-cpuinfo aiohttp aiofile pyzmq cryptography
.venv/bin/pip install -q --no-deps lmcache==0.5.6
LMCACHE_TRACK_USAGE=false CUDA_VISIBLE_DEVICES= .venv/bin/python cachegen_inside.py --check
touch .venv/cachegen-ready
echo "ready: bench/codec_speed.py now measures cachegen too"
