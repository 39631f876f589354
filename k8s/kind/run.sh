#!/usr/bin/env bash
# A search on pretended GPUs, on this machine: k8s/kind/run.sh up | search | status | down   (see README.md)
set -euo pipefail
cd "$(dirname "$0")/../.."

readonly CLUSTER=tuner NAMESPACE=tuner IMAGE=${IMAGE:-sglang-tuner:kind}
export KUBECONFIG=${KUBECONFIG:-$PWD/k8s/kind/kubeconfig}
kube() { kubectl --context "kind-$CLUSTER" --namespace "$NAMESPACE" "$@"; }

# Advertises GPUs that are not there, as an extended resource: the kubelet counts them and hands nothing out.
pretend_gpus() {
  local pool=$1 resource=$2 node
  for node in $(kube get nodes --selector "gpu-pool=$pool" --output name); do
    kube patch "$node" --subresource=status --type=json \
      --patch "[{\"op\": \"add\", \"path\": \"/status/capacity/${resource//\//~1}\", \"value\": \"8\"}]"
    # The kubelet takes a moment to say that they may be handed out.
    kube wait "$node" --for=jsonpath="{.status.allocatable.${resource//./\\.}}"=8 --timeout=60s
  done
}

up() {
  kind create cluster --config k8s/kind/cluster.yaml --kubeconfig "$KUBECONFIG" --wait 120s
  make image IMAGE="$IMAGE"
  kind load docker-image "$IMAGE" --name "$CLUSTER"
  pretend_gpus mi355x amd.com/gpu
  pretend_gpus b200 nvidia.com/gpu
  kube create namespace "$NAMESPACE"
  kube apply --filename k8s/rbac.yaml --filename k8s/rbac-nodes.yaml
  kube get nodes --output custom-columns='NODE:.metadata.name,AMD:.status.capacity.amd\.com/gpu,NVIDIA:.status.capacity.nvidia\.com/gpu'
}

search() {
  kube delete job tuner-search --ignore-not-found --cascade=foreground # of an earlier search, whose study goes on
  kube create configmap tuner-space --from-literal=space.yaml="$(sed "s|sglang-tuner:kind|$IMAGE|" k8s/kind/space.yaml)" \
    --dry-run=client --output yaml | kube apply --filename -
  sed "s|sglang-tuner:VERSION|$IMAGE|" k8s/search-job.yaml | kube apply --filename -
  kube wait job/tuner-search --for=jsonpath='{.status.ready}'=1 --timeout=180s
  kube logs --follow job/tuner-search
}

status() {
  kube get jobs,pods --output wide
  kube get events --sort-by=.metadata.creationTimestamp | tail --lines=15
}

down() { kind delete cluster --name "$CLUSTER" --kubeconfig "$KUBECONFIG"; }

case ${1:-} in
  up | search | status | down) "$1" ;;
  *) sed -n '2s/^# //p' "$0" >&2; exit 2 ;;
esac
