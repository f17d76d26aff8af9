#!/usr/bin/env bash
# What a GPU has to show, under eight minutes: fused losses of large vocabularies against their products and the kernels
# of other packages, and the step and the generation of decoders against torch.compile. Records: benchmarks/results/gpu*.
#   benchmarks/gpu.sh            on the card
#   benchmarks/gpu.sh --small    tiny sizes, also on a CPU: does everything run? Its records are removed.
set -euo pipefail
cd "$(dirname "$0")/.."
export XLA_PYTHON_CLIENT_PREALLOCATE=false # PyTorch shares the card
if [[ "${1:-}" == --small ]]; then
  python -m benchmarks.gpu --small --seconds 0.1
  python -m benchmarks.decoders --record gpu_small_decoders --rounds 1 --vocabulary 256 --batch 2 --length 16 --new 4 --eager
  rm benchmarks/results/gpu_small*.json
else
  nvidia-smi --query-gpu=name,memory.total,driver_version --format=csv
  timeout 240 python -m benchmarks.gpu
  timeout 230 python -m benchmarks.decoders --record gpu_decoders --vocabulary 32768 --batch 8 --length 1024
fi
