#!/usr/bin/env bash
# Installs raysim on a node from the checkout in ~/raysim, into ~/raysim-env (Python 3.11):
#   bash ~/raysim/cluster/setup.sh cpu|cuda [s3fs|gcsfs|adlfs] [aws|gcp|azure|local]
# The second word is what shared storage needs (two quotes: nothing), the third is for the head: what its autoscaler
# needs. Every node has the same Python, Ray and torch, and the head's versions of all else: it writes them down in
# ~/raysim/cluster/versions.txt, which goes to the workers with the checkout, also to one that comes a month later.
# To install from git instead, set RAYSIM_FROM=git+https://HOST/OWNER/raysim.git.
set -euo pipefail
RAY_VERSION=2.60.0
TORCH_VERSION=2.13.0
TORCHVISION_VERSION=0.28.0
CUDA=cu126 # runs on every driver from 525 on; PyPI's own wheels are for CUDA 13, which drivers before 580 refuse
UV_VERSION=0.8.22
build=${1:?"cpu or cuda"}
case $build in
  cpu) index=https://download.pytorch.org/whl/cpu ;;
  cuda) index=https://download.pytorch.org/whl/$CUDA ;;
  *) echo "setup.sh: $build is neither cpu nor cuda" >&2; exit 2 ;;
esac
packages=(${2:-})
case ${3:-} in
  "" | local) ;;
  aws) packages+=(boto3) ;;
  gcp) packages+=(google-api-python-client google-auth-httplib2 cryptography) ;;
  azure) # later azure-mgmt-resource has no ResourceManagementClient where Ray 2.60 looks for it
    packages+=(azure-cli-core azure-common azure-identity azure-mgmt-{compute,network} "azure-mgmt-resource<25"
      msrest msrestazure cryptography) ;;
  *) echo "setup.sh: $3 is no cloud" >&2; exit 2 ;;
esac
export PATH="$HOME/.local/bin:$PATH" VIRTUAL_ENV="$HOME/raysim-env" UV_LINK_MODE=copy
[ -f "$HOME/.ray/auth_token" ] && chmod 700 "$HOME/.ray" && chmod 600 "$HOME/.ray/auth_token"
command -v uv >/dev/null || curl -LsSf --retry 5 "https://astral.sh/uv/$UV_VERSION/install.sh" | sh
[ -x "$VIRTUAL_ENV/bin/python" ] || uv venv --python 3.11 "$VIRTUAL_ENV"
versions=$HOME/raysim/cluster/versions.txt
[ -z "${3:-}" ] || rm -f "$versions"
same=()
[ ! -s "$versions" ] || same=(--constraint "$versions")
rm -rf "$HOME/raysim/build" # of an earlier installation: modules that are gone since would come along
uv pip install --quiet "torch==$TORCH_VERSION" "torchvision==$TORCHVISION_VERSION" --index-url "$index"
uv pip install --quiet ${same[@]+"${same[@]}"} "ray[default,tune]==$RAY_VERSION" ${packages[@]+"${packages[@]}"} \
  "${RAYSIM_FROM:-$HOME/raysim}"
mkdir -p "$HOME/.local/bin" # on the PATH of a login shell: `ray down` and `ray exec` say just "ray"
ln -sf "$VIRTUAL_ENV/bin/ray" "$VIRTUAL_ENV/bin/raysim" "$HOME/.local/bin/"
[ -z "${3:-}" ] || uv pip freeze | sed -n '/^torch/d; s/^\([A-Za-z0-9_.-]*==[^+]*\).*/\1/p' >"$versions"
"$VIRTUAL_ENV/bin/python" -c 'import ray, torch, raysim; print("ray", ray.__version__, "torch", torch.__version__)'
