#!/usr/bin/env bash
# Installs raysim on a node from the checkout in ~/raysim, into ~/raysim-env (Python 3.11):
#   bash ~/raysim/cluster/setup.sh cpu|cuda [s3fs|gcsfs|adlfs] [aws|gcp|azure]
# The second word is what shared storage needs, the third what the autoscaler on the head needs. Every node of a cluster
# has the same Python and the same Ray. To install from git instead, set RAYSIM_FROM=git+https://HOST/OWNER/raysim.git.
set -euo pipefail
RAY_VERSION=2.60.0
UV_VERSION=0.8.22
build=${1:?"cpu or cuda"}
export PATH="$HOME/.local/bin:$PATH" VIRTUAL_ENV="$HOME/raysim-env" UV_LINK_MODE=copy
[ -f "$HOME/.ray/auth_token" ] && chmod 700 "$HOME/.ray" && chmod 600 "$HOME/.ray/auth_token"
command -v uv >/dev/null || curl -LsSf --retry 5 "https://astral.sh/uv/$UV_VERSION/install.sh" | sh
[ -x "$VIRTUAL_ENV/bin/python" ] || uv venv --python 3.11 "$VIRTUAL_ENV"
case $build in
  cpu) index=https://download.pytorch.org/whl/cpu ;;
  cuda) index=https://pypi.org/simple ;; # the Linux wheels there are for CUDA
  *) echo "setup.sh: $build is neither cpu nor cuda" >&2; exit 2 ;;
esac
packages=(${2:-})
case ${3:-} in
  "") ;;
  aws) packages+=(boto3) ;;
  gcp) packages+=(google-api-python-client google-auth-httplib2) ;;
  azure) packages+=(azure-cli-core azure-common azure-identity azure-mgmt-{compute,network,resource}) ;;
  *) echo "setup.sh: $3 is no cloud" >&2; exit 2 ;;
esac
uv pip install --quiet "torch>=2.9,<2.14" "torchvision>=0.24,<0.29" --index-url "$index"
uv pip install --quiet "ray[default,tune]==$RAY_VERSION" ${packages[@]+"${packages[@]}"} "${RAYSIM_FROM:-$HOME/raysim}"
"$VIRTUAL_ENV/bin/python" -c 'import ray, torch, raysim; print("ray", ray.__version__, "torch", torch.__version__)'
